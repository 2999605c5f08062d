{{- define "nodemend.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "nodemend.selector" -}}
app.kubernetes.io/name: nodemend-agent
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "nodemend.labels" -}}
{{ include "nodemend.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "nodemend.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "nodemend.name" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "nodemend.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag }}
{{- end -}}
{{- end -}}
