{{/* The pods of `helm test`: `.root`, `.suffix`, `.weight`, `.program` (YAML), `.files`. */}}

{{- define "omnialign.testPod" -}}
{{- $values := .root.Values -}}
apiVersion: v1
kind: Pod
metadata:
  {{- include "omnialign.metadata" . | nindent 2 }}
  annotations:
    helm.sh/hook: test
    helm.sh/hook-weight: {{ .weight | quote }}
    helm.sh/hook-delete-policy: before-hook-creation
spec:
  restartPolicy: Never
  activeDeadlineSeconds: {{ $values.tests.deadlineSeconds }}
  serviceAccountName: {{ include "omnialign.fullname" .root }}-test
  automountServiceAccountToken: false
  enableServiceLinks: false
  securityContext:
    {{- include "omnialign.podSecurity" . | nindent 4 }}
  {{- with include "omnialign.scheduling" (dict "root" .root "values" $values.tests) | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  containers:
    - name: test
      image: {{ include "omnialign.image" (dict "root" .root "image" "service") }}
      imagePullPolicy: {{ $values.images.pullPolicy }}
      {{- .program | nindent 6 }}
      resources:
        {{- toYaml $values.tests.resources | nindent 8 }}
      securityContext:
        {{- include "omnialign.containerSecurity" . | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        {{- range .files }}
        - {name: {{ .name }}, mountPath: {{ .path }}, readOnly: true}
        {{- end }}
  volumes:
    - {name: tmp, emptyDir: {sizeLimit: 1Gi}}
    {{- range .files }}
    - name: {{ .name }}
      {{- toYaml .volume | nindent 6 }}
    {{- end }}
{{- end }}

{{- define "omnialign.healthProgram" -}}
command: [python, -c]
args:
  - |
    {{- .Files.Get "files/test/health.py" | nindent 4 }}
  - {{ .Values.tests.deadlineSeconds | quote }}
  {{- range $name, $component := include "omnialign.components" . | fromYaml }}
  - {{ include "omnialign.fullname" $ }}-{{ $name }}{{ if not (has $name (list "alignment" "evaluation" "annotation" "training")) }}-headless{{ end }}={{ $component.health }}
  {{- end }}
  {{- range list "critique" "refinement" "judge" }}
  - {{ include "omnialign.fullname" $ }}-{{ . }}-headless=omnialign.v1.{{ title . }}Service
  {{- end }}
{{- end }}

{{- define "omnialign.submitProgram" -}}
{{- $address := .Values.tests.address | default (include "omnialign.address" (dict "root" . "service" "gateway")) -}}
args: [omnialign.cli.main, demo, --small, --out, /tmp/demo, --address, {{ $address | quote }}]
env:
  {{- range include "omnialign.testFiles" . | fromYamlArray }}
  - {name: {{ .variable }}, value: {{ .path }}/{{ .file }}}
  {{- end }}
{{- end }}

{{/* Whether a job can be submitted: there must be a token, and a name that the gateway's certificate holds. */}}
{{- define "omnialign.testSubmits" -}}
{{- $token := or (ne .Values.auth.source "secret") .Values.tests.tokenSecret.name -}}
{{- $name := or (not .Values.gateway.tls.existingSecret) .Values.tests.address -}}
{{- if and $token $name }}true{{ end -}}
{{- end }}

{{/* The token and the authority of the gateway's certificate, as a YAML list of `name`, `path`, `volume`, `variable`. An
     address outside the cluster without an authority of its own has a public certificate. */}}
{{- define "omnialign.testFiles" -}}
{{- $tests := .Values.tests -}}
{{- $ca := $tests.caSecret -}}
{{- if and (not $ca.name) (ne .Values.tls.source "none") (not $tests.address) }}
{{- $ca = dict "name" (include "omnialign.tlsSecret" .) "key" "ca.crt" }}
{{- end }}
{{- if $ca.name }}
{{ include "omnialign.testFile" (dict "name" "ca" "variable" "OMNIALIGN_CA_FILE" "secret" $ca) }}
{{- end }}
{{- if eq .Values.auth.source "generated" }}
{{- $admin := dict "name" (printf "%s-admin" (include "omnialign.authSecret" .)) "key" "token" }}
{{ include "omnialign.testFile" (dict "name" "token" "variable" "OMNIALIGN_TOKEN_FILE" "secret" $admin) }}
{{- else if eq .Values.auth.source "secret" }}
{{ include "omnialign.testFile" (dict "name" "token" "variable" "OMNIALIGN_TOKEN_FILE" "secret" $tests.tokenSecret) }}
{{- end }}
{{- end }}

{{- define "omnialign.testFile" -}}
- name: {{ .name }}
  path: /etc/omnialign/{{ .name }}
  file: {{ .name }}
  variable: {{ .variable }}
  volume: {secret: {secretName: {{ .secret.name }}, defaultMode: 0440, items: [{key: {{ .secret.key }}, path: {{ .name }}}]}}
{{- end }}
