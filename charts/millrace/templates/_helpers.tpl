{{/* The objects are those of k8s/, so that the chart and the overlays cannot differ; values replace parts of them. */}}

{{/*
Prints an object with the namespace of the release and the labels that k8s/base adds.
Takes (dict "object" OBJECT "root" $), and "component" for objects of k8s/base.
*/}}
{{- define "millrace.print" -}}
{{- $object := .object -}}
{{- $_ := set $object.metadata "namespace" ($object.metadata.namespace | default .root.Release.Namespace) -}}
{{- if .component -}}
{{- $labels := dict "app.kubernetes.io/name" "millrace" "app.kubernetes.io/component" .component -}}
{{- $_ := set $object.metadata "labels" $labels -}}
{{- if eq $object.kind "Service" -}}
{{- $_ := set $object.spec "selector" $labels -}}
{{- else if $object.spec -}}
{{- $_ := set $object.spec "selector" (dict "matchLabels" $labels) -}}
{{- with $object.spec.template -}}
{{- $_ := set .metadata "labels" $labels -}}
{{- range .spec.topologySpreadConstraints -}}
{{- $_ := set . "labelSelector" (dict "matchLabels" $labels) -}}
{{- end -}}
{{- end -}}
{{- range $object.spec.volumeClaimTemplates -}}
{{- $_ := set .metadata "labels" $labels -}}
{{- end -}}
{{- end -}}
{{- end }}
---
{{ toYaml $object }}
{{- end -}}

{{/* Prints the objects of a file of k8s/ unchanged. Takes (dict "path" PATH "root" $). */}}
{{- define "millrace.file" -}}
{{- $root := .root -}}
{{- range regexSplit "(?m)^---$" ($root.Files.Get (printf "k8s/%s" .path)) -1 -}}
{{- include "millrace.print" (dict "object" (fromYaml .) "root" $root) -}}
{{- end -}}
{{- end -}}

{{- define "millrace.image" -}}
{{- $images := .root.Values.images -}}
{{- $image := index $images .name -}}
{{- with $images.registry }}{{ . }}/{{ end }}{{ $image.repository -}}
{{- if $image.digest -}}
@{{ $image.digest }}
{{- else -}}
:{{ $image.tag | default $images.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/*
Changes a pod and its first container by the values of its part: resources, probes, placement, environment, volumes.
Takes (dict "template" POD-TEMPLATE "values" VALUES "root" $), and prints nothing.
*/}}
{{- define "millrace.pod" -}}
{{- $values := .values -}}
{{- $images := .root.Values.images -}}
{{- $pod := .template.spec -}}
{{- $container := first $pod.containers -}}
{{- $resources := mergeOverwrite $container.resources (deepCopy $values.resources) -}}
{{- range $kind := list "requests" "limits" -}}
{{- $kept := dict -}}
{{- range $name, $amount := index $resources $kind -}}
{{- if not (kindIs "invalid" $amount) -}}
{{- $_ := set $kept $name $amount -}}
{{- end -}}
{{- end -}}
{{- $_ := set $resources $kind $kept -}}
{{- end -}}
{{- range $name := list "startupProbe" "readinessProbe" "livenessProbe" -}}
{{- $_ := set $container $name (mergeOverwrite (index $container $name) (deepCopy (index $values $name))) -}}
{{- end -}}
{{- range $name := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" "priorityClassName" -}}
{{- with index $values $name -}}
{{- $_ := set $pod $name (deepCopy .) -}}
{{- end -}}
{{- end -}}
{{- with $values.podAnnotations -}}
{{- $_ := set $.template.metadata "annotations" (merge $.template.metadata.annotations .) -}}
{{- end -}}
{{- $_ := set $container "env" (concat $container.env $values.extraEnv) -}}
{{- $_ := set $container "volumeMounts" (concat $container.volumeMounts $values.extraVolumeMounts) -}}
{{- $_ := set $pod "volumes" (concat $pod.volumes $values.extraVolumes) -}}
{{- with $images.pullSecrets -}}
{{- $_ := set $pod "imagePullSecrets" . -}}
{{- end -}}
{{- with $images.pullPolicy -}}
{{- range concat ($pod.initContainers | default list) $pod.containers -}}
{{- $_ := set . "imagePullPolicy" $images.pullPolicy -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
Gives the pod of the worker a model that is not in its image. Takes (dict "pod" POD "root" $), and prints nothing.
*/}}
{{- define "millrace.model" -}}
{{- $model := .root.Values.worker.model -}}
{{- $container := first .pod.containers -}}
{{- $source := dict -}}
{{- if and $model.claim $model.pull -}}
{{- fail "worker.model has a claim and a pull: choose one" -}}
{{- end -}}
{{- if and $model.path (not $model.claim) -}}
{{- fail "worker.model.path is a folder of worker.model.claim, which is not set" -}}
{{- end -}}
{{- if $model.claim -}}
{{- $source = dict "persistentVolumeClaim" (dict "claimName" $model.claim "readOnly" true) -}}
{{- else if $model.pull -}}
{{- $source = dict "emptyDir" (dict "sizeLimit" $model.size) -}}
{{- $image := required "worker.model.builder is required if worker.model.pull is set" $model.builder -}}
{{- $script := "cd /src && test -d /models/model || { python3 -m model_store pull \"$MODEL\" --to /models/checkpoint && python3 -m model_store build --model /models/checkpoint --engine openvino --out /models/model; }" -}}
{{- $env := list (dict "name" "MODEL" "value" $model.pull) (dict "name" "HOME" "value" "/tmp") (dict "name" "TMPDIR" "value" "/models") -}}
{{- with $model.tokenSecret -}}
{{- $env = append $env (dict "name" "HF_TOKEN" "valueFrom" (dict "secretKeyRef" (dict "name" . "key" "HF_TOKEN"))) -}}
{{- end -}}
{{- $mounts := list (dict "name" "tmp" "mountPath" "/tmp") (dict "name" "model" "mountPath" "/models") -}}
{{- $init := dict "name" "model" "image" $image "command" (list "sh" "-c" $script) "env" $env "volumeMounts" $mounts "resources" $model.resources "securityContext" $container.securityContext -}}
{{- $_ := set .pod "initContainers" (list $init) -}}
{{- end -}}
{{- if $source -}}
{{- $folder := empty $model.claim | ternary "/models/model" (clean (printf "/models/%s" $model.path)) -}}
{{- $_ := set .pod "volumes" (append .pod.volumes (merge (dict "name" "model") $source)) -}}
{{- $_ := set $container "volumeMounts" (append $container.volumeMounts (dict "name" "model" "mountPath" "/models" "readOnly" true)) -}}
{{- $_ := set $container "env" (append $container.env (dict "name" "MILLRACE_MODEL" "value" $folder)) -}}
{{- end -}}
{{- end -}}

{{/* The bytes of an amount of memory, of Redis (768mb) or of Kubernetes (2Gi). */}}
{{- define "millrace.bytes" -}}
{{- $units := dict "k" 1e3 "m" 1e6 "g" 1e9 "kb" 1024 "mb" 1048576 "gb" 1073741824 "M" 1e6 "G" 1e9 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 -}}
{{- mulf (regexFind "^[0-9.]+" . | float64) (index $units (regexReplaceAll "^[0-9.]+" . "") | default 1) | int64 -}}
{{- end -}}

{{/* The files of Redis, as YAML. */}}
{{- define "millrace.redisConfiguration" -}}
{{- $files := dict -}}
{{- range $name := list "redis.conf" "start.sh" "users.acl" -}}
{{- $_ := set $files $name ($.Files.Get (printf "k8s/base/redis/%s" $name)) -}}
{{- end -}}
{{- if .Values.redis.sentinels -}}
{{- $_ := set $files "sentinel.sh" ($.Files.Get "k8s/components/redis-sentinel/sentinel.sh") -}}
{{- end -}}
{{- $_ := set $files "redis.conf" (regexReplaceAll "(?m)^maxmemory .*$" (index $files "redis.conf") (printf "maxmemory %s" .Values.redis.maxmemory)) -}}
{{ toYaml $files }}
{{- end -}}

{{/* Prints the ServiceAccount of a part, with the annotations of its values. Takes (dict "name" NAME "root" $). */}}
{{- define "millrace.serviceAccount" -}}
{{- $account := .root.Files.Get (printf "k8s/base/%s/serviceaccount.yaml" .name) | fromYaml -}}
{{- with (index .root.Values .name).serviceAccount.annotations -}}
{{- $_ := set $account.metadata "annotations" . -}}
{{- end -}}
{{- include "millrace.print" (dict "object" $account "component" .name "root" .root) -}}
{{- end -}}

{{- define "millrace.redisAddress" -}}
{{- $domain := printf "redis.%s.svc.cluster.local" .Release.Namespace -}}
{{- if and .Values.redis.sentinels (or .Values.redis.address (not .Values.redis.inside)) -}}
{{- fail "redis.sentinels is for the Redis in the cluster: redis.inside and no redis.address" -}}
{{- else if .Values.redis.sentinels -}}
redis-0.{{ $domain }}:26379,redis-1.{{ $domain }}:26379,redis-2.{{ $domain }}:26379
{{- else if .Values.redis.inside -}}
{{ .Values.redis.address | default (printf "%s:6379" $domain) }}
{{- else -}}
{{ required "redis.address is required if redis.inside is false" .Values.redis.address }}
{{- end -}}
{{- end -}}

{{/* The settings of all processes, as YAML. */}}
{{- define "millrace.settings" -}}
{{- $settings := dict -}}
{{- range splitList "\n" (.Files.Get "k8s/base/settings.env") -}}
{{- if regexMatch "^[A-Z]" . -}}
{{- $_ := set $settings (splitn "=" 2 .)._0 (splitn "=" 2 .)._1 -}}
{{- end -}}
{{- end -}}
{{- $_ := set $settings "REDIS_ADDRESS" (include "millrace.redisAddress" .) -}}
{{- if .Values.redis.jobsAddress -}}
{{- $_ := set $settings "REDIS_JOBS_ADDRESS" .Values.redis.jobsAddress -}}
{{- end -}}
{{- with .Values.redis.clusterAddress -}}
{{- $_ := set $settings "REDIS_CLUSTER_ADDRESS" . -}}
{{- $_ := set $settings "MILLRACE_SHARDS" ($.Values.redis.shards | toString) -}}
{{- end -}}
{{- if .Values.redis.tls -}}
{{- $_ := set $settings "REDIS_SCHEME" "rediss" -}}
{{- if .Values.redis.inside -}}
{{- $_ := set $settings "REDIS_OPTIONS" "?ssl_ca_certs=/etc/redis-tls/ca.crt" -}}
{{- end -}}
{{- end -}}
{{- if .Values.networkPolicies.tracing -}}
{{- $_ := set $settings "MILLRACE_TRACING" "true" -}}
{{- $_ := set $settings "OTEL_EXPORTER_OTLP_ENDPOINT" "http://otel-collector.monitoring.svc.cluster.local:4318" -}}
{{- end -}}
{{- if .Values.ingress.kind -}}
{{- $_ := set $settings "MILLRACE_ALLOWED_HOSTS" .Values.ingress.host -}}
{{- end -}}
{{- range $name, $value := .Values.settings -}}
{{- /* toString makes 1e+08 of a large number. */ -}}
{{- $_ := set $settings $name (kindIs "string" $value | ternary $value (toJson $value)) -}}
{{- end -}}
{{ toYaml $settings }}
{{- end -}}

{{/*
The paths that gateways publish, with MILLRACE_COMPAT of the settings, as YAML: two lists, `usual` with a timeout and
`unlimited`, of {path, below: whether it stands for what is below it too, post: whether it is for POST only}.
*/}}
{{- define "millrace.paths" -}}
{{- $public := .Files.Get "k8s/public-paths.yaml" | fromYaml -}}
{{- $names := $public.default -}}
{{- $settings := include "millrace.settings" . | fromYaml -}}
{{- if hasKey $settings "MILLRACE_COMPAT" -}}
{{- $names = regexFindAll "[^\\s,]+" $settings.MILLRACE_COMPAT -1 -}}
{{- end -}}
{{- $groups := dict "usual" $public.api "unlimited" $public.jobs -}}
{{- range $name := $names -}}
{{- if not (hasKey $public.dialects $name) -}}
{{- fail (printf "settings.MILLRACE_COMPAT has %s; known are %s" $name (keys $public.dialects | sortAlpha | join ", ")) -}}
{{- end -}}
{{- $_ := set $groups "usual" (concat $groups.usual (index $public.dialects $name)) -}}
{{- $_ := set $groups "unlimited" (concat $groups.unlimited (index $public.batches $name | default list)) -}}
{{- end -}}
{{- range $group, $paths := $groups }}
{{ $group }}:
{{- range uniq $paths }}
  - path: {{ . | trimPrefix "POST " | trimSuffix "/*" }}
    below: {{ hasSuffix "/*" . }}
    post: {{ hasPrefix "POST " . }}
{{- end }}
{{- end }}
{{- end -}}
