{{/*
The Deployment of a gRPC service. Takes `.root`, `.name` (component label and suffix), `.component` (its row of the
table), `.values` (replicas, resources, ...), and optionally `.settings` (more variables of its own prefix),
`.environment`, `.mounts`, `.volumes` (YAML lists), `.labels` (of pods), `.startupSeconds`, `.strategy`, `.token` (whether
it talks to the Kubernetes API).
*/}}
{{- define "omnialign.deployment" -}}
{{- $server := .root.Values.server -}}
{{- $files := include "omnialign.files" . | fromYamlArray -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "omnialign.metadata" . | nindent 2 }}
spec:
  {{- if not .values.autoscaling.enabled }}
  replicas: {{ .values.replicas }}
  {{- end }}
  revisionHistoryLimit: 3
  strategy:
    {{- toYaml (.strategy | default (dict "type" "RollingUpdate" "rollingUpdate" (dict "maxSurge" "25%" "maxUnavailable" 0))) | nindent 4 }}
  selector:
    matchLabels:
      {{- include "omnialign.selectorLabels" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "omnialign.labels" . | nindent 8 }}
        {{- range $label, $value := merge (dict) (.labels | default dict) .values.podLabels }}
        {{ $label }}: {{ $value | quote }}
        {{- end }}
      {{- with merge (dict) (include "omnialign.checksums" . | fromYaml) .values.podAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      serviceAccountName: {{ include "omnialign.fullname" .root }}-{{ .name }}
      automountServiceAccountToken: {{ .token | default false }}
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ add $server.drainSeconds $server.graceSeconds 10 }}
      securityContext:
        {{- include "omnialign.podSecurity" . | nindent 8 }}
      {{- with include "omnialign.scheduling" . | trim }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- if or .values.autoscaling.enabled (gt (int .values.replicas) 1) }}
      topologySpreadConstraints:
        {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
        - maxSkew: 1
          topologyKey: {{ . }}
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- include "omnialign.selectorLabels" $ | nindent 14 }}
        {{- end }}
      {{- end }}
      containers:
        - name: {{ .component.module | replace "." "-" | trimPrefix "services-" }}
          image: {{ include "omnialign.image" (dict "root" .root "image" .component.image) }}
          imagePullPolicy: {{ .root.Values.images.pullPolicy }}
          args: [{{ .component.module }}]
          env:
            {{- include "omnialign.environment" . | nindent 12 }}
            {{- with .environment }}
            {{- . | nindent 12 }}
            {{- end }}
          ports:
            - {name: {{ .component.port | default "grpc" }}, containerPort: 50051}
            - {name: health, containerPort: 50052}
            - {name: metrics, containerPort: 9090}
          {{- include "omnialign.probes" . | nindent 10 }}
          resources:
            {{- toYaml .values.resources | nindent 12 }}
          securityContext:
            {{- include "omnialign.containerSecurity" . | nindent 12 }}
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
            - {name: scratch, mountPath: /var/lib/omnialign}
            {{- range $files }}
            - {name: {{ .name }}, mountPath: {{ .path }}, readOnly: true}
            {{- end }}
            {{- with .mounts }}
            {{- . | nindent 12 }}
            {{- end }}
      volumes:
        - {name: tmp, emptyDir: {sizeLimit: {{ .values.tmpSize }}}}
        - {name: scratch, emptyDir: {sizeLimit: {{ .values.scratchSize }}}}
        {{- range $files }}
        - name: {{ .name }}
          {{- toYaml .volume | nindent 10 }}
        {{- end }}
        {{- with .volumes }}
        {{- . | nindent 8 }}
        {{- end }}
{{- end }}

{{/* Only readiness asks for the service itself. Start-up and liveness ask whether the event loop turns: a restart mends no
     database and no bucket, so a pod without them waits, not ready and with the reason, and never crash-loops. The start
     has a probe of its own because importing and loading models takes long. */}}
{{- define "omnialign.probes" -}}
{{- $health := .component.health -}}
startupProbe:
  grpc: {port: 50052, service: liveness}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: {{ div (add (.startupSeconds | default 300) 1) 2 }}
readinessProbe:
  grpc: {port: 50052, service: {{ $health | quote }}}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 3
livenessProbe:
  grpc: {port: 50052, service: liveness}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}

{{/* Pods start anew when what they read once, at the start, has changed. Certificates, tokens and quotas are read again
     while they run. */}}
{{- define "omnialign.checksums" -}}
{{- if eq .name "training" }}
checksum/training-jobs: {{ include "omnialign.trainingJobs" .root | sha256sum }}
{{- end }}
{{- if eq .root.Values.tls.source "generated" }}
checksum/certificate-names: {{ include "omnialign.dnsNames" .root | sha256sum }}
{{- end }}
{{- end }}
