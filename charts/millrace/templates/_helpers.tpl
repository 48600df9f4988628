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
{{- with .root.Values.images.registry }}{{ . }}/{{ end -}}
millrace-{{ .name }}:{{ .root.Values.images.tag | default .root.Chart.AppVersion }}
{{- end -}}

{{- define "millrace.redisAddress" -}}
{{- if .Values.redis.inside -}}
{{ .Values.redis.address | default (printf "redis.%s.svc.cluster.local:6379" .Release.Namespace) }}
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
{{- $_ := set $settings $name ($value | toString) -}}
{{- end -}}
{{ toYaml $settings }}
{{- end -}}
