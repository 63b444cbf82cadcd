{{- define "strata.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "strata.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* What every pod has: room to write, and the certificates of private authorities. */}}
{{- define "strata.ownMounts" -}}
- name: tmp
  mountPath: /tmp
{{- if .Values.caSecret }}
- name: ca
  mountPath: /etc/strata/ca
  readOnly: true
{{- end }}
{{- end -}}

{{- define "strata.ownVolumes" -}}
- name: tmp
  emptyDir: {}
{{- with .Values.caSecret }}
- name: ca
  secret:
    secretName: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* What serves and what trains has the storage, too. */}}
{{- define "strata.mounts" -}}
{{ include "strata.ownMounts" . }}
{{- if not .Values.storage.url }}
- name: storage
  mountPath: /var/lib/strata
{{- end }}
{{- end -}}

{{- define "strata.volumes" -}}
{{ include "strata.ownVolumes" . }}
{{- if not .Values.storage.url }}
- name: storage
  persistentVolumeClaim:
    claimName: {{ include "strata.claimName" . }}
{{- end }}
{{- end -}}

{{/* A variable from a key of a Secret: (list NAME secret key) */}}
{{- define "strata.fromSecret" -}}
- name: {{ index . 0 }}
  valueFrom:
    secretKeyRef:
      name: {{ index . 1 | quote }}
      key: {{ index . 2 | quote }}
{{- end -}}

{{- define "strata.storageSecret" -}}
{{- with .Values.storage.existingSecret }}
envFrom:
  - secretRef:
      name: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* An identity of the cloud, with which pods reach the storage without a Secret. */}}
{{- define "strata.identity" -}}
{{- with .Values.storage.serviceAccountAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Where a pod may run, of a component's values. */}}
{{- define "strata.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "strata.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
