{{/* The smaller objects that every component has. All take `.root`, `.name` and `.values`. */}}

{{- define "omnialign.serviceAccount" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "omnialign.metadata" . | nindent 2 }}
  {{- with .values.serviceAccount.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}

{{/* The ports of a service's Service object; health is for `helm test`, the kubelet asks the pods. */}}
{{- define "omnialign.servicePorts" -}}
- {name: grpc, port: 50051, targetPort: grpc}
- {name: health, port: 50052, targetPort: health}
- {name: metrics, port: 9090, targetPort: metrics}
{{- end }}

{{/* With one replica a budget would only block node drains. */}}
{{- define "omnialign.podDisruptionBudget" -}}
{{- $replicas := ternary .values.autoscaling.minReplicas .values.replicas .values.autoscaling.enabled | int -}}
{{- if and .values.podDisruptionBudget.enabled (gt $replicas 1) }}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "omnialign.metadata" . | nindent 2 }}
spec:
  maxUnavailable: {{ .values.podDisruptionBudget.maxUnavailable }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "omnialign.selectorLabels" . | nindent 6 }}
{{- end }}
{{- end }}

{{/* By processor use for what computes on CPUs, by KEDA on the engine's queue for pools. */}}
{{- define "omnialign.autoscaler" -}}
{{- $auto := .values.autoscaling -}}
{{- if $auto.enabled }}
{{- if eq ($auto.kind | default "hpa") "keda" }}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  {{- include "omnialign.metadata" . | nindent 2 }}
spec:
  scaleTargetRef:
    name: {{ include "omnialign.fullname" .root }}-{{ .name }}
  minReplicaCount: {{ $auto.minReplicas }}
  maxReplicaCount: {{ $auto.maxReplicas }}
  cooldownPeriod: {{ $auto.cooldownSeconds }}
  triggers:
    - type: prometheus
      metricType: AverageValue
      metadata:
        serverAddress: {{ $auto.prometheusAddress | quote }}
        query: sum(omnialign_engine_queue_depth{namespace={{ .root.Release.Namespace | quote }}, pod=~{{ printf "%s-%s-.*" (include "omnialign.fullname" .root) .name | quote }}})
        threshold: {{ $auto.targetQueueDepth | quote }}
{{- else }}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "omnialign.metadata" . | nindent 2 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ include "omnialign.fullname" .root }}-{{ .name }}
  minReplicas: {{ $auto.minReplicas }}
  maxReplicas: {{ $auto.maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target:
          type: Utilization
          averageUtilization: {{ $auto.targetCpuPercent }}
{{- end }}
{{- end }}
{{- end }}
