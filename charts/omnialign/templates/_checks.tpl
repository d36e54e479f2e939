{{/*
Stops an installation that cannot work, with every reason, before anything is made. What contradicts itself is always an
error. What only the cluster knows (Secrets, storage classes, GPUs, CRDs) is asked only where there is a cluster: under
`helm template` nothing can be looked up. `checks` turns the questions off for those who may not ask them.
*/}}
{{- define "omnialign.check" -}}
{{- $problems := concat (include "omnialign.valueProblems" . | fromYamlArray) -}}
{{- /* Every API server serves this one, and no client takes it for granted: it tells a cluster from `helm template`. */}}
{{- if .Capabilities.APIVersions.Has "apiregistration.k8s.io/v1/APIService" }}
{{- $problems = concat $problems (include "omnialign.crdProblems" . | fromYamlArray) }}
{{- if .Values.checks.secrets }}
{{- $problems = concat $problems (include "omnialign.secretProblems" . | fromYamlArray) }}
{{- end }}
{{- if .Values.checks.cluster }}
{{- $problems = concat $problems (include "omnialign.storageProblems" . | fromYamlArray) (include "omnialign.gpuProblems" . | fromYamlArray) }}
{{- end }}
{{- end }}
{{- if $problems }}
{{- fail (printf "\n\nThis installation would not work:\n  - %s\n" (join "\n  - " $problems)) }}
{{- end }}
{{- end }}

{{/* Values that contradict each other or leave something out, as a YAML list of sentences. */}}
{{- define "omnialign.valueProblems" -}}
{{- $v := .Values -}}
{{- range list "critique" "refinement" "judge" }}
{{- if not (include "omnialign.hosts" (dict "root" $ "service" .) | fromYamlArray) }}
- {{ printf "No pool hosts %s: add it to the `services` of one of `inference.pools`." . | quote }}
{{- end }}
{{- end }}
{{- range $name, $_ := $v.inference.pools }}
{{- $pool := include "omnialign.poolValues" (dict "root" $ "name" $name) | fromYaml }}
{{- if not (regexMatch "^[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?$" $name) }}
- {{ printf "The pool `%s` needs a name of at most 15 small letters, digits and hyphens." $name | quote }}
{{- end }}
{{- if and $pool.modelCache.persistent (not $pool.modelCache.existingClaim) (ne $pool.modelCache.accessMode "ReadWriteMany") (or $pool.autoscaling.enabled (gt (int $pool.replicas) 1)) }}
- {{ printf "The pool `%s` has several replicas on one model cache: set its `modelCache.accessMode` to ReadWriteMany, or `modelCache.persistent` to false." $name | quote }}
{{- end }}
{{- if and $pool.endpoints.keysSecret.name (not $pool.endpoints.urls) }}
- {{ printf "The pool `%s` has keys and no endpoints: set its `endpoints.urls`, or leave `endpoints.keysSecret.name` empty." $name | quote }}
{{- end }}
{{- if and $pool.autoscaling.enabled (eq $pool.autoscaling.kind "keda") (not $pool.autoscaling.prometheusAddress) }}
- {{ printf "The pool `%s` is scaled by KEDA: set its `autoscaling.prometheusAddress`." $name | quote }}
{{- end }}
{{- end }}
{{- if not $v.postgresql.bundled.enabled }}
{{- if not $v.postgresql.host }}
- "There is no database: set `postgresql.host`, or for an evaluation `postgresql.bundled.enabled`."
{{- end }}
{{- if not $v.postgresql.existingSecret }}
- "The database has no credentials: set `postgresql.existingSecret`."
{{- end }}
{{- if and (eq $v.postgresql.sslMode "verify-ca") (not $v.postgresql.caSecret.name) }}
- "There is no authority to check the database with: set `postgresql.caSecret.name`, or `postgresql.sslMode` to verify-full."
{{- end }}
{{- end }}
{{- if not $v.s3.bundled.enabled }}
{{- if or (not $v.s3.endpoint) (not $v.s3.bucket) }}
- "There is no object store: set `s3.endpoint` and `s3.bucket`, or for an evaluation `s3.bundled.enabled`."
{{- end }}
{{- if not $v.s3.existingSecret }}
- "The object store has no credentials: set `s3.existingSecret`."
{{- end }}
{{- end }}
{{- if and (eq $v.tls.source "secret") (not $v.tls.existingSecret) }}
- "There is no certificate: set `tls.existingSecret`, or another `tls.source`."
{{- end }}
{{- if and (eq $v.tls.source "certManager") (not $v.tls.certManager.issuerRef.name) }}
- "cert-manager needs to know who signs: set `tls.certManager.issuerRef.name`."
{{- end }}
{{- if and (eq $v.auth.source "secret") (not $v.auth.existingSecret) }}
- "There are no tokens: set `auth.existingSecret`, or another `auth.source`."
{{- end }}
{{- if and (eq $v.auth.source "none") (or $v.auth.oidc.issuer $v.auth.rate.perSecond $v.quotas) }}
- "OIDC, rates and quotas need `auth.source`: the services themselves call with tokens of their own."
{{- end }}
{{- if and (ne $v.auth.source "none") (eq $v.tls.source "none") (not $v.auth.allowPlaintext) }}
- "Tokens would travel in the clear: set `tls.source`, or `auth.allowPlaintext` where a mesh encrypts."
{{- end }}
{{- if and $v.auth.oidc.issuer (not $v.auth.oidc.audience) }}
- "An OIDC issuer needs an audience: set `auth.oidc.audience`."
{{- end }}
{{- if and $v.gateway.service.nodeAddresses (ne $v.gateway.service.type "NodePort") }}
- "`gateway.service.nodeAddresses` are of a NodePort: set `gateway.service.type` to NodePort, or leave them empty."
{{- end }}
{{- if and $v.gateway.ingress.enabled (not $v.gateway.ingress.host) }}
- "The Ingress has no host: set `gateway.ingress.host`."
{{- end }}
{{- if and (or $v.console.autoscaling.enabled (gt (int $v.console.replicas) 1)) (not (include "omnialign.sessionSecret" .)) }}
- "The console has several pods, and nothing that seals sessions for all of them: set `console.sessionKeySecret.name`."
{{- end }}
{{- if and $v.console.oidc.clientId (not $v.auth.oidc.issuer) }}
- "People cannot sign in to the console with an issuer that there is not: set `auth.oidc.issuer`."
{{- end }}
{{- if and $v.console.ingress.enabled (not $v.console.ingress.host) }}
- "The console's Ingress has no host: set `console.ingress.host`."
{{- end }}
{{- if and $v.console.httpRoute.enabled (not $v.console.httpRoute.parentRefs) }}
- "The HTTPRoute has no gateway: set `console.httpRoute.parentRefs`."
{{- end }}
{{- if and $v.gateway.grpcRoute.enabled (not $v.gateway.grpcRoute.parentRefs) }}
- "The GRPCRoute has no gateway: set `gateway.grpcRoute.parentRefs`."
{{- end }}
{{- end }}

{{/* Kinds that are switched on and that the cluster does not know. */}}
{{- define "omnialign.crdProblems" -}}
{{- $v := .Values -}}
{{- $wanted := list
  (dict "by" "monitoring.serviceMonitor.enabled" "on" $v.monitoring.serviceMonitor.enabled "any" (list "monitoring.coreos.com/v1/ServiceMonitor"))
  (dict "by" "monitoring.podMonitor.enabled" "on" $v.monitoring.podMonitor.enabled "any" (list "monitoring.coreos.com/v1/PodMonitor"))
  (dict "by" "monitoring.prometheusRule.enabled" "on" $v.monitoring.prometheusRule.enabled "any" (list "monitoring.coreos.com/v1/PrometheusRule"))
  (dict "by" "tls.source=certManager" "on" (eq $v.tls.source "certManager") "any" (list "cert-manager.io/v1/Certificate"))
  (dict "by" "gateway.grpcRoute.enabled" "on" $v.gateway.grpcRoute.enabled "any" (list "gateway.networking.k8s.io/v1/GRPCRoute"))
  (dict "by" "console.httpRoute.enabled" "on" $v.console.httpRoute.enabled "any" (list "gateway.networking.k8s.io/v1/HTTPRoute"))
  (dict "by" "training.jobs.queue" "on" (ne $v.training.jobs.queue "") "any" (list "kueue.x-k8s.io/v1beta2/LocalQueue" "kueue.x-k8s.io/v1beta1/LocalQueue"))
}}
{{- range $name, $_ := $v.inference.pools }}
{{- $auto := (include "omnialign.poolValues" (dict "root" $ "name" $name) | fromYaml).autoscaling }}
{{- $keda := and $auto.enabled (eq $auto.kind "keda") }}
{{- $wanted = append $wanted (dict "by" (printf "inference.pools.%s.autoscaling" $name) "on" $keda "any" (list "keda.sh/v1alpha1/ScaledObject")) }}
{{- end }}
{{- range $wanted }}
{{- $there := not .on }}
{{- range .any }}
{{- $there = or $there ($.Capabilities.APIVersions.Has .) }}
{{- end }}
{{- if not $there }}
- {{ printf "`%s` needs %s, which this cluster does not know: install its operator first." .by (first .any) | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* Secrets that values name and that are not there, or lack a key. */}}
{{- define "omnialign.secretProblems" -}}
{{- $v := .Values -}}
{{- $wanted := list -}}
{{- if not $v.postgresql.bundled.enabled }}{{ $wanted = append $wanted (dict "name" $v.postgresql.existingSecret "keys" (list $v.postgresql.usernameKey $v.postgresql.passwordKey)) }}{{ end }}
{{- if not $v.s3.bundled.enabled }}{{ $wanted = append $wanted (dict "name" $v.s3.existingSecret "keys" (list $v.s3.accessKeyIdKey $v.s3.secretAccessKeyKey)) }}{{ end }}
{{- if eq $v.tls.source "secret" }}{{ $wanted = append $wanted (dict "name" $v.tls.existingSecret "keys" (list "tls.crt" "tls.key" "ca.crt")) }}{{ end }}
{{- if eq $v.auth.source "secret" }}{{ $wanted = append $wanted (dict "name" $v.auth.existingSecret "keys" (list $v.auth.tokensKey $v.auth.serviceTokenKey $v.auth.jobKeyKey)) }}{{ end }}
{{- range list $v.gateway.tls.existingSecret $v.console.tls.existingSecret }}
{{- if . }}{{ $wanted = append $wanted (dict "name" . "keys" (list "tls.crt" "tls.key")) }}{{ end }}
{{- end }}
{{- range list $v.postgresql.caSecret $v.s3.caSecret $v.auth.oidc.caSecret $v.console.sessionKeySecret $v.console.oidc.clientSecret }}
{{- if .name }}{{ $wanted = append $wanted (dict "name" .name "keys" (list .key)) }}{{ end }}
{{- end }}
{{- range $name, $_ := $v.inference.pools }}
{{- $keys := (include "omnialign.poolValues" (dict "root" $ "name" $name) | fromYaml).endpoints.keysSecret }}
{{- if $keys.name }}{{ $wanted = append $wanted (dict "name" $keys.name "keys" (list $keys.key)) }}{{ end }}
{{- end }}
{{- range $secret := $wanted | uniq }}
{{- if $secret.name }}
{{- $found := lookup "v1" "Secret" $.Release.Namespace $secret.name }}
{{- if not $found }}
- {{ printf "There is no Secret `%s` in the namespace `%s`: make it, with the keys %s." $secret.name $.Release.Namespace (join ", " $secret.keys) | quote }}
{{- else }}
{{- range $secret.keys }}
{{- if not (hasKey ($found.data | default dict) .) }}
- {{ printf "The Secret `%s` has no key `%s`." $secret.name . | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Claims that no storage class would fill. */}}
{{- define "omnialign.storageProblems" -}}
{{- $classes := dict -}}
{{- range (lookup "storage.k8s.io/v1" "StorageClass" "" "").items }}
{{- $classes = set $classes .metadata.name (dig "metadata" "annotations" "storageclass.kubernetes.io/is-default-class" "false" .) }}
{{- end }}
{{- $wanted := dict -}}
{{- range $name := list "postgresql" "s3" }}
{{- $bundled := (get $.Values $name).bundled }}
{{- if and $bundled.enabled $bundled.persistence.enabled (not $bundled.persistence.existingClaim) }}
{{- $wanted = set $wanted (printf "%s.bundled.persistence" $name) $bundled.persistence.storageClassName }}
{{- end }}
{{- end }}
{{- range $name, $_ := .Values.inference.pools }}
{{- $cache := (include "omnialign.poolValues" (dict "root" $ "name" $name) | fromYaml).modelCache }}
{{- if and $cache.persistent (not $cache.existingClaim) }}
{{- $wanted = set $wanted (printf "inference.pools.%s.modelCache" $name) $cache.storageClassName }}
{{- end }}
{{- end }}
{{- range $where, $class := $wanted }}
{{- if and $class (not (hasKey $classes $class)) }}
- {{ printf "There is no storage class `%s`: choose another `%s.storageClassName` of %s." $class $where (keys $classes | sortAlpha | join ", " | default "none") | quote }}
{{- else if and (not $class) (not (has "true" (values $classes))) }}
- {{ printf "This cluster has no default storage class: set `%s.storageClassName`%s." $where (ternary ", or its `enabled` to false for a trial that may lose its data" "" (hasSuffix "persistence" $where)) | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* GPUs that no node has. */}}
{{- define "omnialign.gpuProblems" -}}
{{- $wanted := dict -}}
{{- if .Values.training.jobs.gpus }}{{ $wanted = set $wanted "training.jobs" .Values.training.jobs.gpuResource }}{{ end }}
{{- range $name, $_ := .Values.inference.pools }}
{{- $pool := include "omnialign.poolValues" (dict "root" $ "name" $name) | fromYaml }}
{{- if $pool.gpus }}{{ $wanted = set $wanted (printf "inference.pools.%s" $name) $pool.gpuResource }}{{ end }}
{{- end }}
{{- $there := dict -}}
{{- $nodes := (lookup "v1" "Node" "" "").items -}}
{{- range $nodes }}
{{- range $resource, $count := .status.allocatable }}
{{- if ne ($count | toString) "0" }}{{ $there = set $there $resource true }}{{ end }}
{{- end }}
{{- end }}
{{- range $where, $resource := $wanted }}
{{- if not (hasKey $there $resource) }}
- {{ printf "No node has `%s`, which `%s` asks for: install the device plugin, or set its `gpus` to 0 (`checks.cluster=false` where nodes come when needed)." $resource $where | quote }}
{{- end }}
{{- end }}
{{- end }}
