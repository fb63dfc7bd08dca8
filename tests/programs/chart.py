"""Renders the chart with sets of values and validates what comes out against the schemas that Kubernetes publishes; prints it as JSON.

chart.py CHART RENDERER KUBE_VERSION NAMESPACE [VALUES.yaml…]   one document a line
chart.py --validate FILE.json…                                  only validates
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile

import jsonschema
import kubernetes_validate
import yaml

VERSION = "1.34"


def validate(document, where):
    try:
        kubernetes_validate.validate(document, VERSION, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        # Kinds that are not Kubernetes' own.
        if not document["apiVersion"].startswith("monitoring.coreos.com/"):
            raise
    except kubernetes_validate.ValidationError as error:
        sys.exit(f"{where}: {'.'.join(map(str, error.path))}: {error.message}")


def merged(into, more):
    for key, value in more.items():
        both = isinstance(into.get(key), dict) and isinstance(value, dict)
        into[key] = merged(into[key], value) if both else value
    return into


def main(chart, renderer, version, namespace, *more):
    with open(f"{chart}/values.schema.json") as file:
        schema = json.load(file)
    values = {}
    for path in [f"{chart}/values.yaml", *more]:
        with open(path) as file:
            values = merged(values, yaml.safe_load(file) or {})
    try:
        jsonschema.validate(values, schema)
    except jsonschema.ValidationError as error:
        sys.exit(f"values: {'.'.join(map(str, error.path))}: {error.message}")
    with tempfile.TemporaryDirectory() as directory:
        copy = f"{directory}/chart"
        shutil.copytree(chart, copy)
        for name, content in [("Chart", yaml.safe_load(open(f"{chart}/Chart.yaml"))), ("all", values)]:
            with open(f"{copy}/{name}.json", "w") as file:
                json.dump(content, file)
        command = [renderer, version, "malla", namespace, copy, f"{copy}/all.json"]
        rendered = subprocess.run(command, capture_output=True, text=True)
        if rendered.returncode != 0:
            sys.exit(rendered.stderr.strip())
    for document in yaml.safe_load_all(rendered.stdout):
        if document is not None:
            validate(document, f"{document['kind']}/{document['metadata']['name']}")
            print(json.dumps(document))


if sys.argv[1] == "--validate":
    for path in sys.argv[2:]:
        with open(path) as file:
            validate(json.load(file), os.path.basename(path))
    print(f"{len(sys.argv) - 2} valid")
else:
    main(*sys.argv[1:])
