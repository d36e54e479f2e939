{{/* Names, labels, images, addresses. */}}

{{- define "omnialign.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* Release and chart name; 40 characters leave room for the longest suffix within the 63 of a label. */}}
{{- define "omnialign.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "omnialign.name" . -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* What selects the pods of the whole release. */}}
{{- define "omnialign.releaseLabels" -}}
app.kubernetes.io/name: {{ include "omnialign.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* What selects the pods of a component, for ever: `.root`, `.name`. */}}
{{- define "omnialign.selectorLabels" -}}
{{ include "omnialign.releaseLabels" .root }}
app.kubernetes.io/component: {{ .name }}
{{- end }}

{{/* Labels of every object: `.root`, `.name`. */}}
{{- define "omnialign.labels" -}}
{{ include "omnialign.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: {{ .root.Chart.Name }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Name, namespace and labels of an object: `.root`, `.name` (its component), `.suffix` (default: the component). */}}
{{- define "omnialign.metadata" -}}
name: {{ include "omnialign.fullname" .root }}-{{ .suffix | default .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "omnialign.labels" . | nindent 2 }}
{{- end }}

{{/* The reference of an image, a digest before a tag: `.root`, `.image` (key of `images`). */}}
{{- define "omnialign.image" -}}
{{- $image := get .root.Values.images .image -}}
{{- $registry := .root.Values.global.imageRegistry | default $image.registry -}}
{{- $path := ternary (printf "%s/%s" $registry $image.repository) $image.repository (ne $registry "") -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $path $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $path ($image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end }}

{{/* The Service object of a gRPC service: `.root`, `.service`. */}}
{{- define "omnialign.serviceName" -}}
{{- $component := get (include "omnialign.components" .root | fromYaml) .service | default (dict "service" "headless") -}}
{{- include "omnialign.fullname" .root }}-{{ .service }}{{ if eq $component.service "headless" }}-headless{{ end }}
{{- end }}

{{/* Where a gRPC service is called; of a headless one the client finds all pods: `.root`, `.service`. */}}
{{- define "omnialign.address" -}}
{{- printf "dns:///%s.%s.svc:50051" (include "omnialign.serviceName" .) .root.Release.Namespace -}}
{{- end }}

{{/* The names a certificate must hold, as a YAML list. */}}
{{- define "omnialign.dnsNames" -}}
- localhost
{{- range $service := list "data" "alignment" "evaluation" "annotation" "training" "gateway" "console" "critique" "refinement" "judge" }}
{{- $name := include "omnialign.serviceName" (dict "root" $ "service" $service) }}
- {{ $name }}
- {{ $name }}.{{ $.Release.Namespace }}
- {{ $name }}.{{ $.Release.Namespace }}.svc
- {{ $name }}.{{ $.Release.Namespace }}.svc.{{ $.Values.clusterDomain }}
{{- end }}
{{- range concat .Values.tls.extraNames .Values.gateway.service.nodeAddresses | uniq }}
- {{ . | quote }}
{{- end }}
{{- end }}

{{/* Nine tenths of a quantity in bytes: what a program may fill of a volume of that size. */}}
{{- define "omnialign.mostOf" -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "P" 1000000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 -}}
{{- $number := regexFind "^[0-9.]+" (toString .) -}}
{{- mulf (float64 $number) (get $units (trimPrefix $number (toString .))) 0.9 | int64 -}}
{{- end }}

{{/* The Secret with a certificate of the public kind, of those that people outside reach; else empty: `.root`, `.name`. */}}
{{- define "omnialign.ownTlsSecret" -}}
{{- if has .name (list "gateway" "console") }}{{ (get .root.Values .name).tls.existingSecret }}{{ end -}}
{{- end }}

{{/* Secrets by purpose: what the operator named, or what this chart makes. */}}
{{- define "omnialign.tlsSecret" -}}
{{- if eq .Values.tls.source "secret" }}{{ .Values.tls.existingSecret }}{{ else }}{{ include "omnialign.fullname" . }}-tls{{ end -}}
{{- end }}

{{- define "omnialign.authSecret" -}}
{{- if eq .Values.auth.source "secret" }}{{ .Values.auth.existingSecret }}{{ else }}{{ include "omnialign.fullname" . }}-auth{{ end -}}
{{- end }}

{{/* Of what seals the console's sessions; empty if each pod makes it up. */}}
{{- define "omnialign.sessionSecret" -}}
{{- if .Values.console.sessionKeySecret.name }}{{ .Values.console.sessionKeySecret.name }}{{ else if eq .Values.auth.source "generated" }}{{ include "omnialign.fullname" . }}-console{{ end -}}
{{- end }}

{{- define "omnialign.postgresqlSecret" -}}
{{- if .Values.postgresql.bundled.enabled }}{{ include "omnialign.fullname" . }}-postgresql{{ else }}{{ .Values.postgresql.existingSecret }}{{ end -}}
{{- end }}

{{- define "omnialign.s3Secret" -}}
{{- if .Values.s3.bundled.enabled }}{{ include "omnialign.fullname" . }}-s3{{ else }}{{ .Values.s3.existingSecret }}{{ end -}}
{{- end }}

{{/* A value of a Secret that exists already, else a new random one: `.root`, `.secret`, `.key`, `.length`. Without a
     cluster (`helm template`) there is nothing to look up and every rendering differs. */}}
{{- define "omnialign.kept" -}}
{{- $old := lookup "v1" "Secret" .root.Release.Namespace .secret -}}
{{- if and $old (hasKey ($old.data | default dict) .key) -}}
{{- index $old.data .key | b64dec -}}
{{- else -}}
{{- randAlphaNum (.length | default 32 | int) -}}
{{- end -}}
{{- end }}
