{{- define "malla.selector" -}}
app.kubernetes.io/name: malla-control
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "malla.labels" -}}
{{ include "malla.selector" . }}
app.kubernetes.io/part-of: malla
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "malla.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "malla.sidecarImage" -}}
{{ .Values.sidecar.image.repository }}:{{ .Values.sidecar.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "malla.sidecarKind" -}}
{{- if ne .Values.sidecar.kind "auto" }}{{ .Values.sidecar.kind }}
{{- else if semverCompare ">=1.29.0-0" .Capabilities.KubeVersion.Version }}native
{{- else }}classic
{{- end }}
{{- end }}

{{- define "malla.caSecret" -}}
{{ .Values.ca.existingSecret | default "malla-ca" }}
{{- end }}
