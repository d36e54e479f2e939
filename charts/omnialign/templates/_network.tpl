{{/*
Who may talk to whom, from the table of components: a pod takes calls from those that call it and calls those it has in
`calls`, and nothing else. The kubelet's probes come from the node and need no rule.
*/}}

{{/* The pods of components of this release, as a peer of a policy: `.root`, `.names` (list). */}}
{{- define "omnialign.peers" -}}
- podSelector:
    matchLabels:
      {{- include "omnialign.releaseLabels" .root | nindent 6 }}
    matchExpressions:
      - {key: app.kubernetes.io/component, operator: In, values: [{{ join ", " (.names | uniq | sortAlpha) }}]}
{{- end }}

{{/* The pods of training jobs, which the training service starts. */}}
{{- define "omnialign.jobPeers" -}}
- podSelector:
    matchLabels:
      {{- include "omnialign.jobPodLabels" . | nindent 6 }}
{{- end }}

{{- define "omnialign.dnsEgress" -}}
- ports:
    {{- range .Values.networkPolicy.dnsPorts }}
    - {port: {{ . }}, protocol: UDP}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
  {{- with .Values.networkPolicy.dnsTo }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "omnialign.apiServerEgress" -}}
{{- $api := .Values.networkPolicy.apiServer -}}
- ports:
    {{- range $api.ports }}
    - {port: {{ . }}}
    {{- end }}
  to:
    {{- include "omnialign.blocks" $api | trim | nindent 4 }}
{{- end }}

{{/* Egress to an address outside the release: `.address` (a URL or host:port), `.to` (peers of a policy that say where it
     is; if empty, the address itself says so if it can). */}}
{{- define "omnialign.egressTo" -}}
{{- $host := regexReplaceAll "^[a-z+]*://" .address "" | regexFind "^[^/]*" | regexFind "^(\\[[^]]*\\]|[^:]*)" | trimAll "[]" -}}
- ports: [{port: {{ include "omnialign.portOf" .address }}}]
  {{- if .to }}
  to:
    {{- toYaml .to | nindent 4 }}
  {{- else if regexMatch "^[0-9.]+$" $host }}
  to:
    - ipBlock: {cidr: {{ $host }}/32}
  {{- else if contains ":" $host }}
  to:
    - ipBlock: {cidr: "{{ $host }}/128"}
  {{- else if regexMatch "^[^.]+\\.[^.]+\\.svc(\\.|$)" $host }}
  to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ index (splitList "." $host) 1 }}
  {{- end }}
{{- end }}

{{/* Addresses outside the cluster as `to`: `.cidrs`. */}}
{{- define "omnialign.blocks" -}}
{{- range .cidrs }}
- ipBlock: {cidr: {{ . | quote }}}
{{- end }}
{{- end }}

{{/* The port of an address like https://host:port/path or host:port. */}}
{{- define "omnialign.portOf" -}}
{{- $rest := regexReplaceAll "^[a-z+]*://" . "" | regexFind "^[^/]*" -}}
{{- $port := regexFind ":[0-9]+$" $rest | trimPrefix ":" -}}
{{- $port | default (ternary "80" "443" (hasPrefix "http://" .)) -}}
{{- end }}

{{/* The policy of a gRPC component: `.root`, `.name`, `.component`, `.services` (what it hosts, as a list),
     optionally `.endpoints` (URLs that it asks for models). */}}
{{- define "omnialign.networkPolicy" -}}
{{- $root := .root -}}
{{- $policy := $root.Values.networkPolicy -}}
{{- $callers := list -}}
{{- range .services }}
{{- $callers = concat $callers (include "omnialign.callers" (dict "root" $root "service" .) | fromYamlArray) }}
{{- end -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "omnialign.metadata" . | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "omnialign.selectorLabels" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    {{- if has .name (list "gateway" "console") }}
    - ports: [{port: 50051}]
      {{- with ternary $policy.gatewayFrom $policy.consoleFrom (eq .name "gateway") }}
      from:
        {{- toYaml . | nindent 8 }}
        {{- include "omnialign.peers" (dict "root" $root "names" (append $callers "test")) | nindent 8 }}
      {{- end }}
    {{- else if $callers }}
    - ports: [{port: 50051}]
      from:
        {{- include "omnialign.peers" (dict "root" $root "names" $callers) | nindent 8 }}
        {{- if or (has .name (list "data" "training")) (hasPrefix "pool-" .name) }}
        {{- include "omnialign.jobPeers" $root | nindent 8 }}
        {{- end }}
    {{- end }}
    - ports: [{port: 50052}]
      from:
        {{- include "omnialign.peers" (dict "root" $root "names" (list "test")) | nindent 8 }}
    - ports: [{port: 9090}]
      from:
        {{- toYaml $policy.prometheusFrom | nindent 8 }}
  egress:
    {{- include "omnialign.dnsEgress" $root | nindent 4 }}
    {{- if .component.calls }}
    {{- $callees := list }}
    {{- $calls := .component.calls }}
    {{- /* A change of a policy is passed on to all other replicas. */}}
    {{- if has "refinement" .services }}{{ $calls = append $calls "refinement" }}{{ end }}
    {{- range $service := $calls }}
    {{- if has $service (list "critique" "refinement" "judge") }}
    {{- range include "omnialign.hosts" (dict "root" $root "service" $service) | fromYamlArray }}
    {{- $callees = append $callees (printf "pool-%s" .) }}
    {{- end }}
    {{- else }}
    {{- $callees = append $callees $service }}
    {{- end }}
    {{- end }}
    - ports: [{port: 50051}]
      to:
        {{- include "omnialign.peers" (dict "root" $root "names" $callees) | nindent 8 }}
    {{- end }}
    {{- if has "database" .component.needs }}
    {{- include "omnialign.databaseEgress" $root | nindent 4 }}
    {{- end }}
    {{- if has "objects" .component.needs }}
    {{- include "omnialign.objectsEgress" $root | nindent 4 }}
    {{- end }}
    {{- if eq .name "training" }}
    {{- include "omnialign.apiServerEgress" $root | nindent 4 }}
    {{- end }}
    {{- with $root.Values.tracing.endpoint }}
    {{- include "omnialign.egressTo" (dict "address" . "to" $policy.tracingTo) | nindent 4 }}
    {{- end }}
    {{- $signsIn := and (eq .name "console") $root.Values.console.oidc.clientId }}
    {{- if and (or (has "auth" .component.needs) $signsIn) $root.Values.auth.oidc.issuer }}
    {{- include "omnialign.egressTo" (dict "address" $root.Values.auth.oidc.issuer "to" $policy.oidcTo) | nindent 4 }}
    {{- end }}
    {{- $opened := list }}
    {{- range .endpoints }}
    {{- $opened = append $opened (include "omnialign.egressTo" (dict "address" . "to" $policy.endpointsTo)) }}
    {{- end }}
    {{- range $opened | uniq }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- with get $policy.extraEgress (ternary "inference" .name (hasPrefix "pool-" .name)) }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{- define "omnialign.databaseEgress" -}}
{{- if .Values.postgresql.bundled.enabled -}}
- ports: [{port: 5432}]
  to:
    {{- include "omnialign.peers" (dict "root" . "names" (list "postgresql")) | nindent 4 }}
{{- else -}}
{{- $peers := include "omnialign.blocks" (dict "cidrs" .Values.networkPolicy.postgresqlCidrs) | fromYamlArray -}}
{{- include "omnialign.egressTo" (dict "address" (printf "%s:%d" .Values.postgresql.host (int .Values.postgresql.port)) "to" $peers) }}
{{- end }}
{{- end }}

{{- define "omnialign.objectsEgress" -}}
{{- if .Values.s3.bundled.enabled -}}
- ports: [{port: 8333}]
  to:
    {{- include "omnialign.peers" (dict "root" . "names" (list "s3")) | nindent 4 }}
{{- else -}}
{{- $peers := include "omnialign.blocks" (dict "cidrs" .Values.networkPolicy.s3Cidrs) | fromYamlArray -}}
{{- include "omnialign.egressTo" (dict "address" .Values.s3.endpoint "to" $peers) }}
{{- end }}
{{- end }}
