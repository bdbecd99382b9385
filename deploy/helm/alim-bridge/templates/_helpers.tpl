{{- define "alim-bridge.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "alim-bridge.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 54 | trimSuffix "-" }}
{{- else if contains (include "alim-bridge.name" .) .Release.Name }}
{{- .Release.Name | trunc 54 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "alim-bridge.name" .) | trunc 54 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "alim-bridge.selector" -}}
app.kubernetes.io/name: {{ include "alim-bridge.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "alim-bridge.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "alim-bridge.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "alim-bridge.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "alim-bridge.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "alim-bridge.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{- /* The files of the Secrets first, so that a setting of the same name replaces it. YAML makes booleans of on and off, and
floats of numbers. */}}
{{- define "alim-bridge.settings" -}}
{{- $settings := dict }}
{{- with .Values.secrets.upstream }}
{{- $_ := set $settings "UPSTREAM_API_KEY_FILE" "/var/run/secrets/alim-bridge/api-key" }}
{{- end }}
{{- with .Values.secrets.callers }}
{{- $_ := set $settings "CALLERS_FILE" "/var/run/secrets/alim-bridge-callers/callers.toml" }}
{{- end }}
{{- with .Values.secrets.adminToken }}
{{- $_ := set $settings "ADMIN_TOKEN_FILE" "/var/run/secrets/alim-bridge-admin/token" }}
{{- end }}
{{- with .Values.tls.secret }}
{{- $_ := set $settings "TLS_CERT_FILE" "/var/run/secrets/alim-bridge-tls/tls.crt" }}
{{- $_ := set $settings "TLS_KEY_FILE" "/var/run/secrets/alim-bridge-tls/tls.key" }}
{{- end }}
{{- with .Values.tls.clientCaSecret }}
{{- $_ := set $settings "TLS_CLIENT_CA_FILE" "/var/run/secrets/alim-bridge-client-ca/ca.crt" }}
{{- end }}
{{- range $name, $value := .Values.settings }}
{{- if kindIs "bool" $value }}
{{- $_ := set $settings $name (ternary "on" "off" $value) }}
{{- else if kindIs "float64" $value }}
{{- $_ := set $settings $name (int64 $value | toString) }}
{{- else }}
{{- $_ := set $settings $name (toString $value) }}
{{- end }}
{{- end }}
{{- range $name, $value := $settings }}
ALIM_BRIDGE_{{ $name }}: {{ $value | quote }}
{{- end }}
{{- end }}

{{- /* One mounted Secret: name of the volume, Secret, folder. A folder and no subPath, which would never see a new key. */}}
{{- define "alim-bridge.files" -}}
{{- $files := list }}
{{- $files = append $files (list "upstream-key" .Values.secrets.upstream "alim-bridge") }}
{{- $files = append $files (list "callers" .Values.secrets.callers "alim-bridge-callers") }}
{{- $files = append $files (list "admin-token" .Values.secrets.adminToken "alim-bridge-admin") }}
{{- $files = append $files (list "tls" .Values.tls.secret "alim-bridge-tls") }}
{{- $files = append $files (list "client-ca" .Values.tls.clientCaSecret "alim-bridge-client-ca") }}
files:
{{- range $files }}
{{- if index . 1 }}
  - {volume: {{ index . 0 }}, secret: {{ index . 1 | quote }}, folder: {{ index . 2 }}}
{{- end }}
{{- end }}
{{- end }}

{{- /* What a probe asks: the context, and the path where callers need TLS. */}}
{{- define "alim-bridge.probe" -}}
{{- if (index . 0).Values.tls.secret -}}
httpGet:
  path: {{ index . 1 }}
  port: admin
{{- else -}}
grpc:
  port: 50051
{{- end }}
{{- end }}
