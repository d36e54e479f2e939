{{/* The environment of a container, as YAML lists of variables. Each is a setting of a class in the code, and tests load
     those classes with what is rendered here. */}}

{{/* A setting as text. Numbers of values files are floats, which would show as 1e+09. */}}
{{- define "omnialign.settingValue" -}}
{{- if kindIs "string" . }}{{ quote . }}{{ else }}{{ toJson . | quote }}{{ end -}}
{{- end }}

{{/* All of a service: `.root`, `.name`, `.component` (its row of the table), `.settings` (more of its own). */}}
{{- define "omnialign.environment" -}}
{{- $values := .root.Values -}}
{{ include "omnialign.serverEnvironment" . }}
{{- if has "auth" .component.needs }}
{{- include "omnialign.authEnvironment" . }}
{{- end }}
{{- if .component.calls }}
{{- include "omnialign.peerEnvironment" . }}
{{- end }}
{{- with $values.tracing.endpoint }}
- {name: OMNIALIGN_TRACING_ENDPOINT, value: {{ . | quote }}}
- {name: OMNIALIGN_TRACING_SAMPLE_RATIO, value: {{ $values.tracing.sampleRatio | quote }}}
{{- end }}
{{- if .component.prefix }}
{{- range concat .component.calls (.component.tells | default list) | uniq }}
- {name: {{ $.component.prefix }}{{ upper . }}_ADDRESS, value: {{ include "omnialign.address" (dict "root" $.root "service" .) | quote }}}
{{- end }}
{{- end }}
{{- if has "database" .component.needs }}
- {name: {{ .component.prefix }}DATABASE_URL, value: {{ include "omnialign.databaseUrl" .root | quote }}}
{{- /* Nobody backs the bundled one up, so its services make its tables again when its volume is lost. */}}
{{- if $values.postgresql.bundled.enabled }}
- {name: {{ .component.prefix }}MIGRATE_AT_START, value: "true"}
{{- end }}
{{ include "omnialign.databaseCredentials" .root }}
{{- end }}
{{- if has "objects" .component.needs }}
{{- include "omnialign.objectsEnvironment" .root }}
{{- end }}
{{- range $key, $value := .settings }}
- {name: {{ $.component.prefix }}{{ $key }}, value: {{ include "omnialign.settingValue" $value }}}
{{- end }}
{{- end }}

{{- define "omnialign.serverEnvironment" -}}
{{- $server := .root.Values.server -}}
- {name: OMNIALIGN_SERVER_HOST, value: "0.0.0.0"}
- {name: OMNIALIGN_SERVER_PORT, value: "50051"}
- {name: OMNIALIGN_SERVER_HEALTH_PORT, value: "50052"}
- {name: OMNIALIGN_SERVER_METRICS_PORT, value: "9090"}
- {name: OMNIALIGN_SERVER_DRAIN_SECONDS, value: {{ $server.drainSeconds | quote }}}
- {name: OMNIALIGN_SERVER_GRACE_SECONDS, value: {{ $server.graceSeconds | quote }}}
- {name: OMNIALIGN_SERVER_MAX_CONCURRENT_RPCS, value: {{ $server.maxConcurrentRpcs | int | quote }}}
- {name: OMNIALIGN_SERVER_REFLECTION, value: {{ $server.reflection | quote }}}
- {name: OMNIALIGN_SERVER_LOG_LEVEL, value: {{ $server.logLevel | quote }}}
{{- if ne .root.Values.tls.source "none" }}
{{- $folder := printf "/etc/omnialign/%s" (ternary (printf "%s-tls" .name) "tls" (ne (include "omnialign.ownTlsSecret" .) "")) }}
- {name: OMNIALIGN_SERVER_TLS_CERTIFICATE_FILE, value: {{ $folder }}/tls.crt}
- {name: OMNIALIGN_SERVER_TLS_KEY_FILE, value: {{ $folder }}/tls.key}
{{- /* People outside have tokens, not certificates: the gateway and the console ask for none. */}}
{{- if and .root.Values.tls.mutual (not (has .name (list "gateway" "console"))) }}
- {name: OMNIALIGN_SERVER_TLS_CLIENT_CA_FILE, value: /etc/omnialign/tls/ca.crt}
{{- end }}
{{- end }}
{{- end }}

{{- define "omnialign.authEnvironment" -}}
{{- $auth := .root.Values.auth }}
{{- if ne $auth.source "none" }}
- {name: OMNIALIGN_AUTH_TOKENS_FILE, value: /etc/omnialign/auth/tokens.yaml}
{{- end }}
{{- with $auth.oidc.issuer }}
- {name: OMNIALIGN_AUTH_OIDC_ISSUER, value: {{ . | quote }}}
- {name: OMNIALIGN_AUTH_OIDC_AUDIENCE, value: {{ $auth.oidc.audience | quote }}}
- {name: OMNIALIGN_AUTH_OIDC_ROLES_CLAIM, value: {{ $auth.oidc.rolesClaim | quote }}}
{{- if $auth.oidc.caSecret.name }}
- {name: OMNIALIGN_AUTH_OIDC_CA_FILE, value: /etc/omnialign/oidc-ca/ca.crt}
{{- end }}
{{- end }}
{{- if and (has "jobKey" .component.needs) (ne $auth.source "none") }}
- {name: OMNIALIGN_AUTH_JOB_KEY_FILE, value: /etc/omnialign/auth/job-key}
{{- end }}
{{- with $auth.rate.perSecond }}
- {name: OMNIALIGN_AUTH_RATE_PER_SECOND, value: {{ . | quote }}}
- {name: OMNIALIGN_AUTH_RATE_BURST, value: {{ $auth.rate.burst | quote }}}
{{- end }}
{{- if .root.Values.quotas }}
- {name: OMNIALIGN_AUTH_QUOTAS_FILE, value: /etc/omnialign/quotas/quotas.yaml}
{{- end }}
{{- end }}

{{/* How it shows itself to the services it calls. The gateway and the console pass their callers' tokens on and have none
     of their own. */}}
{{- define "omnialign.peerEnvironment" -}}
{{- if ne .root.Values.tls.source "none" }}
- {name: OMNIALIGN_PEER_CA_FILE, value: /etc/omnialign/tls/ca.crt}
{{- if .root.Values.tls.mutual }}
- {name: OMNIALIGN_PEER_CERTIFICATE_FILE, value: /etc/omnialign/tls/tls.crt}
- {name: OMNIALIGN_PEER_KEY_FILE, value: /etc/omnialign/tls/tls.key}
{{- end }}
{{- end }}
{{- if and (ne .root.Values.auth.source "none") (not (has .name (list "gateway" "console"))) }}
- {name: OMNIALIGN_PEER_TOKEN_FILE, value: /etc/omnialign/auth/service-token}
{{- end }}
{{- end }}

{{/* User and password are libpq's own variables: a URL would need them encoded. */}}
{{- define "omnialign.databaseUrl" -}}
{{- $postgresql := .Values.postgresql -}}
{{- if $postgresql.bundled.enabled -}}
postgresql+psycopg://{{ include "omnialign.fullname" . }}-postgresql.{{ .Release.Namespace }}.svc:5432/omnialign?sslmode=disable
{{- else -}}
postgresql+psycopg://{{ $postgresql.host }}:{{ $postgresql.port | int }}/{{ $postgresql.database }}?sslmode={{ $postgresql.sslMode }}
{{- if $postgresql.caSecret.name }}&sslrootcert=/etc/omnialign/postgresql-ca/ca.crt{{ else if eq $postgresql.sslMode "verify-full" }}&sslrootcert=system{{ end -}}
{{- end -}}
{{- end }}

{{- define "omnialign.databaseCredentials" -}}
{{- $secret := include "omnialign.postgresqlSecret" . -}}
{{- $bundled := .Values.postgresql.bundled.enabled -}}
- name: PGUSER
  valueFrom:
    secretKeyRef: {name: {{ $secret }}, key: {{ ternary "username" .Values.postgresql.usernameKey $bundled }}}
- name: PGPASSWORD
  valueFrom:
    secretKeyRef: {name: {{ $secret }}, key: {{ ternary "password" .Values.postgresql.passwordKey $bundled }}}
{{- end }}

{{- define "omnialign.objectsEnvironment" -}}
{{- $s3 := .Values.s3 -}}
{{- $bundled := $s3.bundled.enabled -}}
{{- $secret := include "omnialign.s3Secret" . }}
{{- if $bundled }}
- {name: OMNIALIGN_DATA_OBJECTS_URL, value: "s3://omnialign"}
- {name: OMNIALIGN_DATA_S3_ENDPOINT, value: "http://{{ include "omnialign.fullname" . }}-s3.{{ .Release.Namespace }}.svc:8333"}
- {name: OMNIALIGN_DATA_S3_REGION, value: us-east-1}
- {name: OMNIALIGN_DATA_S3_PATH_STYLE, value: "true"}
{{- else }}
- {name: OMNIALIGN_DATA_OBJECTS_URL, value: {{ printf "s3://%s%s" $s3.bucket (ternary (printf "/%s" $s3.prefix) "" (ne $s3.prefix "")) | quote }}}
- {name: OMNIALIGN_DATA_S3_ENDPOINT, value: {{ $s3.endpoint | quote }}}
{{- with $s3.publicEndpoint }}
- {name: OMNIALIGN_DATA_S3_PUBLIC_ENDPOINT, value: {{ . | quote }}}
{{- end }}
- {name: OMNIALIGN_DATA_S3_REGION, value: {{ $s3.region | quote }}}
- {name: OMNIALIGN_DATA_S3_PATH_STYLE, value: {{ $s3.pathStyle | quote }}}
{{- if $s3.caSecret.name }}
- {name: OMNIALIGN_DATA_S3_CA_FILE, value: /etc/omnialign/s3-ca/ca.crt}
{{- end }}
{{- end }}
{{- if $secret }}
- name: AWS_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef: {name: {{ $secret }}, key: {{ ternary "access-key-id" $s3.accessKeyIdKey $bundled }}}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef: {name: {{ $secret }}, key: {{ ternary "secret-access-key" $s3.secretAccessKeyKey $bundled }}}
{{- end }}
{{- end }}
