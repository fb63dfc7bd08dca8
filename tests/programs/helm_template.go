// Renders a chart as `helm template` does, by the libraries that Helm itself uses (text/template, sprig), for machines without Helm.
// It knows what this repository's charts use: values files merged over values.yaml, include, toYaml, toJson, lookup (which finds nothing), .Files.Get.
//
//	helm_template KUBE_VERSION RELEASE NAMESPACE CHART [VALUES.json…]
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
)

type object = map[string]interface{}

// files of a chart beside its templates. As Helm's, it finds an empty text where there is none.
type files string

func (chart files) Get(name string) string {
	text, _ := os.ReadFile(filepath.Join(string(chart), name))
	return string(text)
}

func main() {
	if len(os.Args) < 5 {
		fail(fmt.Errorf("usage: helm_template KUBE_VERSION RELEASE NAMESPACE CHART VALUES.json…"))
	}
	version, release, namespace, chart := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	values := object{}
	for _, path := range os.Args[5:] {
		merge(values, read(path))
	}
	about := read(filepath.Join(chart, "Chart.json"))
	scope := object{
		"Values":       values,
		"Release":      object{"Name": release, "Namespace": namespace, "Service": "Helm", "IsInstall": true, "IsUpgrade": false},
		"Chart":        object{"Name": about["name"], "Version": about["version"], "AppVersion": about["appVersion"]},
		"Capabilities": object{"KubeVersion": object{"Version": version}},
		"Files":        files(chart),
	}
	root := template.New("chart").Option("missingkey=zero")
	functions := sprig.TxtFuncMap()
	functions["include"] = func(name string, data interface{}) (string, error) {
		var out strings.Builder
		err := root.ExecuteTemplate(&out, name, data)
		return out.String(), err
	}
	functions["toYaml"] = func(value interface{}) (string, error) {
		// JSON is YAML.
		text, err := json.Marshal(value)
		return string(text), err
	}
	functions["lookup"] = func(...string) object { return object{} }
	functions["fail"] = func(sentence string) (string, error) { return "", fmt.Errorf("%s", sentence) }
	root.Funcs(functions)
	paths, err := filepath.Glob(filepath.Join(chart, "templates", "*"))
	fail(err)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		fail(err)
		_, err = root.New(filepath.Base(path)).Parse(string(text))
		fail(err)
	}
	for _, path := range paths {
		name := filepath.Base(path)
		if strings.HasPrefix(name, "_") || !strings.HasSuffix(name, ".yaml") {
			continue
		}
		var out bytes.Buffer
		fail(root.ExecuteTemplate(&out, name, scope))
		fmt.Printf("---\n# Source: %s\n%s\n", name, strings.ReplaceAll(out.String(), "<no value>", ""))
	}
}

func read(path string) object {
	text, err := os.ReadFile(path)
	fail(err)
	value := object{}
	fail(json.Unmarshal(text, &value))
	return value
}

func merge(into, from object) {
	for key, value := range from {
		if inner, both := into[key].(object); both {
			if more, ok := value.(object); ok {
				merge(inner, more)
				continue
			}
		}
		into[key] = value
	}
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
