{{- define "strata.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "strata.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "strata.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "strata.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels that select pods of one component: (list $ "server") */}}
{{- define "strata.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "strata.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "strata.labels" -}}
{{ include "strata.selector" . }}
{{- $root := index . 0 }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | quote }}
{{- end -}}

{{/* An image by its digest, else by its tag: (list $ .Values.images.service) */}}
{{- define "strata.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default $root.Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Whole, for gangs of another namespace's Ray come here, too. */}}
{{- define "strata.serverUrl" -}}
{{- printf "http://%s.%s.svc:%v" (include "strata.fullname" .) .Release.Namespace .Values.service.port -}}
{{- end -}}

{{/* KubeRay does not roll pods when a RayCluster changes. So all that they are made of is in its
name: a change makes a new cluster beside which the old one goes, and its jobs go on there from
their checkpoints. How many there are of a group is not in it; KubeRay follows that by itself. */}}
{{- define "strata.rayName" -}}
{{- $spec := include "strata.raySpec" . | fromYaml -}}
{{- $groups := list -}}
{{- range $spec.workerGroupSpecs -}}
{{- $groups = append $groups (omit . "replicas" "minReplicas" "maxReplicas") -}}
{{- end -}}
{{- $made := set $spec "workerGroupSpecs" $groups | toJson | sha256sum | trunc 8 -}}
{{- printf "%s-%s" (include "strata.fullname" . | trunc 30 | trimSuffix "-") $made -}}
{{- end -}}

{{- define "strata.rayAddress" -}}
{{- if .Values.ray.enabled -}}
{{- printf "%s-head-svc:6379" (include "strata.rayName" .) -}}
{{- else -}}
{{- .Values.ray.address -}}
{{- end -}}
{{- end -}}

{{- define "strata.claimName" -}}
{{- default (printf "%s-storage" (include "strata.fullname" .)) .Values.storage.existingClaim -}}
{{- end -}}

{{- define "strata.storageUrl" -}}
{{- default "/var/lib/strata" .Values.storage.url -}}
{{- end -}}
