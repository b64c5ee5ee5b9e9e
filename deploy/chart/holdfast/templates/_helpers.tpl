{{- define "holdfast.labels" -}}
app.kubernetes.io/name: holdfast
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "holdfast.selector" -}}
app.kubernetes.io/name: holdfast
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "holdfast.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* "true" if some storage host is reached from some nodes only. */ -}}
{{- define "holdfast.topology" -}}
{{- range .Values.hosts }}{{ if .topology }}true{{ break }}{{ end }}{{ end }}
{{- end }}

{{- define "holdfast.logArgs" -}}
{{- if .Values.logDebug }}
- --log-debug
{{- end }}
{{- if .Values.logJSON }}
- --log-json
{{- end }}
{{- end }}

{{- /* What hosts.yaml says; a change of it starts the pods again. */ -}}
{{- define "holdfast.hosts" -}}
clusterID: {{ required "clusterID: want what `holdfast target init` printed" .Values.clusterID | quote }}
tls:
  ca: /etc/holdfast/tls/ca.crt
  cert: /etc/holdfast/tls/tls.crt
  key: /etc/holdfast/tls/tls.key
hosts:
{{- range required "hosts: want at least one storage host" .Values.hosts }}
  - name: {{ .name | quote }}
    address: {{ .address | quote }}
    {{- with .topology }}
    topology: {{- toYaml . | nindent 6 }}
    {{- end }}
{{- end }}
{{- end }}
