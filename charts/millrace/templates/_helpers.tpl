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
{{- $part := index .template.metadata.labels "app.kubernetes.io/component" -}}
{{- include "millrace.collisions" (dict "part" $part "pod" $pod "values" $values "claims" .claims) -}}
{{- $resources := mergeOverwrite $container.resources (deepCopy ($values.resources | default dict)) -}}
{{- range $kind := list "requests" "limits" -}}
{{- $kept := dict -}}
{{- range $name, $amount := index $resources $kind -}}
{{- if not (kindIs "invalid" $amount) -}}
{{- $_ := set $kept $name $amount -}}
{{- end -}}
{{- end -}}
{{- $_ := set $resources $kind $kept -}}
{{- end -}}
{{- range $name, $amount := $resources.requests -}}
{{- $limit := index $resources.limits $name -}}
{{- if and $limit (gt (include "millrace.amount" $amount | float64) (include "millrace.amount" $limit | float64)) -}}
{{- fail (printf "%s.resources.requests.%s %v is above its limit, %v: give both" $part $name $amount $limit) -}}
{{- end -}}
{{- end -}}
{{- range $name := list "startupProbe" "readinessProbe" "livenessProbe" -}}
{{- $_ := set $container $name (mergeOverwrite (index $container $name) (deepCopy (index $values $name | default dict))) -}}
{{- end -}}
{{- range $name := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" "priorityClassName" -}}
{{- with index $values $name -}}
{{- $_ := set $pod $name (deepCopy .) -}}
{{- end -}}
{{- end -}}
{{- with $values.podAnnotations -}}
{{- $_ := set $.template.metadata "annotations" (merge $.template.metadata.annotations .) -}}
{{- end -}}
{{- $_ := set $container "env" (concat $container.env ($values.extraEnv | default list)) -}}
{{- $_ := set $container "volumeMounts" (concat $container.volumeMounts ($values.extraVolumeMounts | default list)) -}}
{{- $_ := set $pod "volumes" (concat $pod.volumes ($values.extraVolumes | default list)) -}}
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
Refuses what a cluster would refuse, or take for something else: names and paths twice, volumes that are not there.
Takes (dict "part" NAME "pod" POD "values" VALUES "claims" NAMES-OF-OTHER-VOLUMES), and prints nothing.
*/}}
{{- define "millrace.collisions" -}}
{{- $container := first .pod.containers -}}
{{- range $list, $lists := dict "extraEnv" (dict "own" $container.env "key" "name") "extraVolumes" (dict "own" .pod.volumes "key" "name") "extraVolumeMounts" (dict "own" $container.volumeMounts "key" "mountPath") -}}
{{- $known := list -}}
{{- range concat $lists.own (index $.values $list | default list) -}}
{{- $name := index . $lists.key -}}
{{- if has $name $known -}}
{{- fail (printf "%s.%s has %s, which is there already: leave it out, or give it another %s" $.part $list $name $lists.key) -}}
{{- end -}}
{{- $known = append $known $name -}}
{{- end -}}
{{- end -}}
{{- range .values.extraEnv -}}
{{- if regexMatch "^MILLRACE_(PORT|WORKER_PORT|JOBS_PORT|DRAIN_S|QUIET_S|NAME|SHARDS|COMPAT)$" .name -}}
{{- fail (printf "%s.extraEnv has %s, on which other objects depend: use settings" $.part .name) -}}
{{- end -}}
{{- end -}}
{{- $volumes := .claims | default list -}}
{{- range concat .pod.volumes (.values.extraVolumes | default list) -}}
{{- $volumes = append $volumes .name -}}
{{- end -}}
{{- range .values.extraVolumeMounts -}}
{{- if not (has .name $volumes) -}}
{{- fail (printf "%s.extraVolumeMounts has %s, which is not a volume of the pod: add it to extraVolumes" $.part .name) -}}
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
{{- range $name := list "builder" "tokenSecret" -}}
{{- if and (index $model $name) (not $model.pull) -}}
{{- fail (printf "worker.model.%s is for worker.model.pull, which is not set" $name) -}}
{{- end -}}
{{- end -}}
{{- if and (or $model.claim $model.pull) (hasKey .root.Values.settings "MILLRACE_MODEL") -}}
{{- fail "settings.MILLRACE_MODEL would not be used: the model is that of worker.model" -}}
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

{{/* An amount of Kubernetes (2Gi, 500m, 4e9, 0.5) as a number. */}}
{{- define "millrace.amount" -}}
{{- $text := kindIs "string" . | ternary . (toJson .) -}}
{{- $unit := regexFind "([KMGTPE]i|[mkMGTPE])$" $text -}}
{{- $units := dict "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0 -}}
{{- mulf (trimSuffix $unit $text | float64) (index $units $unit) -}}
{{- end -}}

{{/* The bytes of an amount of Redis (768mb). */}}
{{- define "millrace.redisBytes" -}}
{{- $units := dict "" 1 "k" 1e3 "m" 1e6 "g" 1e9 "kb" 1024 "mb" 1048576 "gb" 1073741824 -}}
{{- mulf (regexFind "^[0-9]+" . | float64) (index $units (regexFind "[a-z]+$" .)) -}}
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
{{- if .Values.redis.sentinels -}}
{{- $_ := set $settings "REDIS_KIND" "+sentinel" -}}
{{- $_ := set $settings "REDIS_PATH" "/millrace/0" -}}
{{- end -}}
{{- if .Values.redis.jobsAddress -}}
{{- $_ := set $settings "REDIS_JOBS_ADDRESS" .Values.redis.jobsAddress -}}
{{- end -}}
{{- with .Values.redis.clusterAddress -}}
{{- if hasKey $.Values.settings "MILLRACE_SHARDS" -}}
{{- fail "settings.MILLRACE_SHARDS would change the processes only: use redis.shards" -}}
{{- end -}}
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
{{- if regexMatch "^(127[.]|::1$|localhost$)" (dig "MILLRACE_HOST" "" .Values.settings | toString) -}}
{{- fail (printf "settings.MILLRACE_HOST %s lets nothing outside the pod connect, not even probes: leave it out" .Values.settings.MILLRACE_HOST) -}}
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
