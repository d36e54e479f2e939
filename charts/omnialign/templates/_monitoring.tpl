{{/* Dashboards and alerts tell components apart by the label `component`. The label `service` of our metrics is the gRPC
     service; the target's, which the operator makes of the Service object, gives way. */}}
{{- define "omnialign.relabelings" -}}
relabelings:
  - sourceLabels: [__meta_kubernetes_pod_label_app_kubernetes_io_component]
    targetLabel: component
  - regex: service
    action: labeldrop
{{- end }}
