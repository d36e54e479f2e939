{{/*
The one table of what each component is. Everything repeated is rendered from it: Deployment, probes, environment,
NetworkPolicy. Tests compare it with the code.

  image     which of `images` it runs
  module    the program: the images' entry point is `python -m`
  port      what its main port speaks, if that is not grpc
  health    the name its startup and readiness probes ask for; empty asks for the whole process
  service   headless: clients balance over all pods by themselves; cluster: one address, by kube-proxy
  prefix    of its own settings in the environment
  calls     the services it calls over gRPC: addresses, network policy and credentials follow
  tells     the services whose address it hands on to its jobs
  needs     database, objects (S3), jobKey (signs or checks the tokens of training jobs), auth (checks its callers)
*/}}
{{- define "omnialign.components" -}}
data:
  image: service
  module: services.data
  health: omnialign.v1.DataService
  service: headless
  prefix: OMNIALIGN_DATA_
  calls: []
  needs: [auth, database, jobKey, objects]
alignment:
  image: service
  module: services.alignment
  health: omnialign.v1.AlignmentService
  service: cluster
  prefix: OMNIALIGN_ALIGNMENT_
  calls: [data, refinement, critique, judge, training]
  needs: [auth, database]
evaluation:
  image: service
  module: services.evaluation
  health: omnialign.v1.EvaluationService
  service: cluster
  prefix: OMNIALIGN_EVALUATION_
  calls: [data, refinement, judge]
  needs: [auth, database]
annotation:
  image: service
  module: services.annotation
  health: omnialign.v1.AnnotationService
  service: cluster
  prefix: OMNIALIGN_ANNOTATION_
  calls: [data, refinement]
  needs: [auth, database]
training:
  image: service
  module: services.training
  health: omnialign.v1.TrainingService
  service: cluster
  prefix: OMNIALIGN_TRAINING_
  calls: [data]
  tells: [training, refinement, judge, critique]
  needs: [auth, database, jobKey]
gateway:
  image: service
  module: services.gateway
  health: omnialign.Gateway
  service: cluster
  prefix: OMNIALIGN_GATEWAY_
  calls: [data, refinement, critique, judge, training, alignment, evaluation, annotation]
  needs: []
console:
  image: service
  module: services.console
  port: http
  health: omnialign.Console
  service: cluster
  prefix: OMNIALIGN_CONSOLE_
  calls: [gateway]
  needs: []
{{- end }}

{{/* What a pool is: `.root`, `.name`. Its health is that of its only service, or of the process when it hosts several. */}}
{{- define "omnialign.pool" -}}
{{- $services := (include "omnialign.poolValues" . | fromYaml).services -}}
image: inference
module: services.pool
health: {{ if eq (len $services) 1 }}omnialign.v1.{{ first $services | title }}Service{{ else }}""{{ end }}
prefix: ""
calls: [data]
needs: [auth, jobKey]
{{- end }}

{{/* The values of a pool over the defaults of all pools: `.root`, `.name`. */}}
{{- define "omnialign.poolValues" -}}
{{- $own := get .root.Values.inference.pools .name | default dict -}}
{{- mergeOverwrite (deepCopy .root.Values.inference.defaults) (deepCopy $own) | toYaml -}}
{{- end }}

{{/* The pools that host a service, as a YAML list: `.root`, `.service`. */}}
{{- define "omnialign.hosts" -}}
{{- range $name, $own := .root.Values.inference.pools }}
{{- $pool := include "omnialign.poolValues" (dict "root" $.root "name" $name) | fromYaml }}
{{- if has $.service $pool.services }}
- {{ $name }}
{{- end }}
{{- end }}
{{- end }}

{{/* Component labels of those who call a service over gRPC, as a YAML list: `.root`, `.service`. */}}
{{- define "omnialign.callers" -}}
{{- range $name, $component := include "omnialign.components" .root | fromYaml }}
{{- if has $.service $component.calls }}
- {{ $name }}
{{- end }}
{{- end }}
{{- if eq .service "data" }}
{{- range $name, $_ := .root.Values.inference.pools }}
- pool-{{ $name }}
{{- end }}
{{- end }}
{{- if eq .service "refinement" }}
{{- range include "omnialign.hosts" . | fromYamlArray }}
- pool-{{ . }}
{{- end }}
{{- end }}
{{- end }}
