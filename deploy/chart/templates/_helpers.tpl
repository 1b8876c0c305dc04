{{/* What several templates say. */}}
{{- define "holdfast.driver" -}}csi.holdfast.dev{{- end }}

{{- define "holdfast.image" -}}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{- end }}

{{- define "holdfast.labels" -}}
app.kubernetes.io/name: holdfast
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{/* (list . "node"): never changed, a selector cannot be. */}}
{{- define "holdfast.selector" -}}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Of a container that needs nothing of its machine. */}}
{{- define "holdfast.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "holdfast.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Asks neither store nor mount, so an outage restarts nobody. */}}
{{- define "holdfast.probes" -}}
startupProbe:
  exec: {command: [/usr/bin/holdfast, csi, --probe]}
  periodSeconds: 2
  timeoutSeconds: 10
  failureThreshold: 60
livenessProbe:
  exec: {command: [/usr/bin/holdfast, csi, --probe]}
  periodSeconds: 30
  timeoutSeconds: 10
  failureThreshold: 5
{{- end }}

{{- define "holdfast.storeMounts" -}}
{{- range .Values.stores }}
- {name: store-{{ .name }}, mountPath: /etc/holdfast/stores/{{ .name }}, readOnly: true}
{{- end }}
{{- end }}

{{/* Optional: a driver without its Secret starts, and a claim waits until the Secret is there. */}}
{{- define "holdfast.storeVolumes" -}}
{{- range .Values.stores }}
- {name: store-{{ .name }}, secret: {secretName: {{ .secret }}, defaultMode: 0440, optional: true}}
{{- end }}
{{- end }}
