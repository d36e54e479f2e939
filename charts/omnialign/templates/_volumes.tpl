{{/* What a service reads and writes: certificates and keys from Secrets, read-only; /tmp and a scratch folder. */}}

{{/* The files of a service as a YAML list of `name`, `path`, `volume`: `.root`, `.name`, `.component`, `.values`. Mounts and volumes
     are both made from it, so that neither goes without the other. */}}
{{- define "omnialign.files" -}}
{{- $values := .root.Values -}}
{{- $needs := .component.needs -}}
{{- if ne $values.tls.source "none" }}
- name: tls
  path: /etc/omnialign/tls
  volume: {secret: {secretName: {{ include "omnialign.tlsSecret" .root }}, defaultMode: 0440}}
{{- with include "omnialign.ownTlsSecret" . }}
- name: {{ $.name }}-tls
  path: /etc/omnialign/{{ $.name }}-tls
  volume: {secret: {secretName: {{ . }}, defaultMode: 0440}}
{{- end }}
{{- end }}
{{- if and (eq .name "console") (include "omnialign.sessionSecret" .root) }}
- name: session-key
  path: /etc/omnialign/session
  volume: {secret: {secretName: {{ include "omnialign.sessionSecret" .root }}, defaultMode: 0440, items: [{key: {{ $values.console.sessionKeySecret.key }}, path: session-key}]}}
{{- end }}
{{- if and (has "auth" $needs) (ne $values.auth.source "none") }}
- name: auth
  path: /etc/omnialign/auth
  volume:
    secret:
      secretName: {{ include "omnialign.authSecret" .root }}
      defaultMode: 0440
      items:
        - {key: {{ $values.auth.tokensKey }}, path: tokens.yaml}
        {{- if .component.calls }}
        - {key: {{ $values.auth.serviceTokenKey }}, path: service-token}
        {{- end }}
        {{- if has "jobKey" $needs }}
        - {key: {{ $values.auth.jobKeyKey }}, path: job-key}
        {{- end }}
{{- end }}
{{- $signsIn := and (eq .name "console") $values.console.oidc.clientId }}
{{- if and $signsIn $values.console.oidc.clientSecret.name }}
- name: oidc-client
  path: /etc/omnialign/oidc-client
  volume: {secret: {secretName: {{ $values.console.oidc.clientSecret.name }}, defaultMode: 0440, items: [{key: {{ $values.console.oidc.clientSecret.key }}, path: client-secret}]}}
{{- end }}
{{- if and (or (has "auth" $needs) $signsIn) $values.auth.oidc.caSecret.name }}
{{ include "omnialign.caFile" (dict "name" "oidc-ca" "secret" $values.auth.oidc.caSecret) }}
{{- end }}
{{- if and (has "auth" $needs) $values.quotas }}
- name: quotas
  path: /etc/omnialign/quotas
  volume: {configMap: {name: {{ include "omnialign.fullname" .root }}-quotas}}
{{- end }}
{{- if and (has "database" $needs) (not $values.postgresql.bundled.enabled) $values.postgresql.caSecret.name }}
{{ include "omnialign.caFile" (dict "name" "postgresql-ca" "secret" $values.postgresql.caSecret) }}
{{- end }}
{{- if and (has "objects" $needs) (not $values.s3.bundled.enabled) $values.s3.caSecret.name }}
{{ include "omnialign.caFile" (dict "name" "s3-ca" "secret" $values.s3.caSecret) }}
{{- end }}
{{- with dig "endpoints" "keysSecret" "name" "" .values }}
- name: endpoint-keys
  path: /etc/omnialign/endpoint-keys
  volume: {secret: {secretName: {{ . }}, defaultMode: 0440, items: [{key: {{ $.values.endpoints.keysSecret.key }}, path: keys}]}}
{{- end }}
{{- if eq .name "training" }}
- name: kubernetes
  path: /etc/omnialign/kubernetes
  volume: {configMap: {name: {{ include "omnialign.fullname" .root }}-training-jobs}}
{{- end }}
{{- end }}

{{/* One certificate authority: `.name`, `.secret` ({name, key}). */}}
{{- define "omnialign.caFile" -}}
- name: {{ .name }}
  path: /etc/omnialign/{{ .name }}
  volume: {secret: {secretName: {{ .secret.name }}, defaultMode: 0440, items: [{key: {{ .secret.key }}, path: ca.crt}]}}
{{- end }}
