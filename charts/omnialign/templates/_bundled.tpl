{{/*
The bundled PostgreSQL and S3 server, for evaluations: one pod each, without copies or backups. Takes `.root`, `.name`
(postgresql or s3), `.module`, `.port`, `.folder`, `.environment` and `.probe` (YAML).
*/}}
{{- define "omnialign.bundled" -}}
{{- $values := (get .root.Values .name).bundled -}}
{{- $name := printf "%s-%s" (include "omnialign.fullname" .root) .name -}}
apiVersion: apps/v1
kind: StatefulSet
metadata:
  {{- include "omnialign.metadata" . | nindent 2 }}
spec:
  replicas: 1
  serviceName: {{ $name }}
  selector:
    matchLabels:
      {{- include "omnialign.selectorLabels" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "omnialign.labels" . | nindent 8 }}
    spec:
      serviceAccountName: {{ $name }}
      automountServiceAccountToken: false
      enableServiceLinks: false
      terminationGracePeriodSeconds: 30
      securityContext:
        {{- include "omnialign.podSecurity" . | nindent 8 }}
      {{- with include "omnialign.scheduling" (dict "root" .root "values" $values) | trim }}
      {{- . | nindent 6 }}
      {{- end }}
      containers:
        - name: {{ .name }}
          image: {{ include "omnialign.image" (dict "root" .root "image" "evaluation") }}
          imagePullPolicy: {{ .root.Values.images.pullPolicy }}
          args: [{{ .module }}]
          env:
            {{- .environment | nindent 12 }}
          ports:
            - {name: {{ .name }}, containerPort: {{ .port }}}
          startupProbe:
            {{- .probe | nindent 12 }}
            periodSeconds: 2
            timeoutSeconds: 5
            failureThreshold: 90
          readinessProbe:
            {{- .probe | nindent 12 }}
            periodSeconds: 5
            timeoutSeconds: 5
          livenessProbe:
            tcpSocket: {port: {{ .name }}}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 6
          resources:
            {{- toYaml $values.resources | nindent 12 }}
          securityContext:
            {{- include "omnialign.containerSecurity" . | nindent 12 }}
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
            - {name: state, mountPath: {{ .folder }}}
            - {name: credentials, mountPath: /etc/omnialign/credentials, readOnly: true}
      volumes:
        - {name: tmp, emptyDir: {sizeLimit: 256Mi}}
        - name: credentials
          secret: {secretName: {{ $name }}, defaultMode: 0440}
        - name: state
          {{- if $values.persistence.enabled }}
          persistentVolumeClaim: {claimName: {{ $values.persistence.existingClaim | default $name }}}
          {{- else }}
          emptyDir: {sizeLimit: {{ $values.persistence.size }}}
          {{- end }}
---
apiVersion: v1
kind: Service
metadata:
  {{- include "omnialign.metadata" . | nindent 2 }}
spec:
  selector:
    {{- include "omnialign.selectorLabels" . | nindent 4 }}
  ports:
    - {name: {{ .name }}, port: {{ .port }}, targetPort: {{ .name }}}
---
{{ include "omnialign.serviceAccount" (dict "root" .root "name" .name "values" (dict "serviceAccount" (dict "annotations" dict))) }}
{{- if and $values.persistence.enabled (not $values.persistence.existingClaim) }}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  {{- include "omnialign.metadata" . | nindent 2 }}
  annotations:
    helm.sh/resource-policy: keep
spec:
  accessModes: [ReadWriteOnce]
  {{- with $values.persistence.storageClassName }}
  storageClassName: {{ . }}
  {{- end }}
  resources:
    requests:
      storage: {{ $values.persistence.size }}
{{- end }}
{{- if .root.Values.networkPolicy.enabled }}
---
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
    - ports: [{port: {{ .port }}}]
      from:
        {{- include "omnialign.peers" (dict "root" .root "names" .clients) | nindent 8 }}
{{- end }}
{{- end }}

{{- define "omnialign.postgresqlEnvironment" -}}
- {name: POSTGRES_USER, value: omnialign}
- {name: POSTGRES_DB, value: omnialign}
- {name: POSTGRES_PASSWORD_FILE, value: /etc/omnialign/credentials/password}
{{- end }}

{{- define "omnialign.s3Environment" -}}
{{- $secret := include "omnialign.s3Secret" . -}}
- {name: S3_BUCKET, value: omnialign}
- {name: S3_DIR, value: /var/lib/seaweedfs}
- name: AWS_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef: {name: {{ $secret }}, key: access-key-id}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef: {name: {{ $secret }}, key: secret-access-key}
{{- end }}
