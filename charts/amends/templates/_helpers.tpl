{{- define "amends.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "amends.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "amends.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "amends.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "amends.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "amends.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "amends.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- /* Labels by which Services and the like select pods: of a release, and with `component` of one role. */ -}}
{{- define "amends.selector" -}}
app.kubernetes.io/name: {{ include "amends.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{- define "amends.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{ include "amends.selector" . }}
app.kubernetes.io/version: {{ default .root.Chart.AppVersion .root.Values.image.tag | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end -}}

{{- /*
Every enabled role: `name`, the `args` of the program, `group` (the setting that bounds how many of it have work), whether
it makes external `calls`, whether the api must find it (`serves`), and its `values`.
*/ -}}
{{- define "amends.roles" -}}
{{- $roles := list -}}
{{- if .Values.api.enabled -}}
{{- $roles = append $roles (dict "name" "api" "args" (list "api") "database" "engine" "values" .Values.api) -}}
{{- end -}}
{{- if .Values.engine.enabled -}}
{{- $roles = append $roles (dict "name" "engine" "args" (list "engine") "database" "engine" "partitions" "reply_partitions" "values" .Values.engine) -}}
{{- end -}}
{{- range $name := list "inventory" "payment" "shipment" "notification" -}}
{{- $values := get $.Values.workers $name -}}
{{- if $values.enabled -}}
{{- $calls := has $name (list "payment" "shipment") -}}
{{- $roles = append $roles (dict "name" $name "args" (list "worker" $name) "database" $name "partitions" "command_partitions" "calls" $calls "values" $values) -}}
{{- end -}}
{{- end -}}
{{- toYaml (dict "roles" $roles) -}}
{{- end -}}

{{- /* `auto`, `always` or `never`, and what the cluster has. Empty: no. */ -}}
{{- define "amends.keda" -}}
{{- if or (eq .Values.keda "always") (and (eq .Values.keda "auto") (.Capabilities.APIVersions.Has "keda.sh/v1alpha1")) -}}yes{{- end -}}
{{- end -}}

{{- define "amends.databaseVariable" -}}
AMENDS_{{ upper . }}_DATABASE_URL
{{- end -}}

{{- define "amends.databaseSecret" -}}
{{- default (printf "%s-databases" (include "amends.fullname" .)) .Values.database.existingSecret -}}
{{- end -}}

{{- define "amends.serviceTokenSecret" -}}
{{- default (printf "%s-service-token" (include "amends.fullname" .)) .Values.serviceToken.existingSecret -}}
{{- end -}}

{{- define "amends.webhookKeySecret" -}}
{{- default (printf "%s-webhook-key" (include "amends.fullname" .)) .Values.webhookKey.existingSecret -}}
{{- end -}}

{{- /* Whether webhooks are delivered. Empty: no. */ -}}
{{- define "amends.webhooks" -}}
{{- if or .Values.webhookKey.existingSecret .Values.webhookKey.value -}}yes{{- end -}}
{{- end -}}

{{- define "amends.redisSecret" -}}
{{- default (printf "%s-redis" (include "amends.fullname" .)) .Values.redis.existingSecret -}}
{{- end -}}

{{- /* Whether there is a Redis. Empty: no. */ -}}
{{- define "amends.redis" -}}
{{- if or .Values.redis.existingSecret .Values.redis.url -}}yes{{- end -}}
{{- end -}}

{{- define "amends.inventoryUrl" -}}
{{- if .Values.api.inventoryUrl -}}
{{- .Values.api.inventoryUrl -}}
{{- else -}}
{{- printf "http://%s-inventory:8080" (include "amends.fullname" .) -}}
{{- end -}}
{{- end -}}

{{- define "amends.notificationUrl" -}}
{{- default (printf "http://%s-notification:8080" (include "amends.fullname" .)) .Values.api.notificationUrl -}}
{{- end -}}

{{- define "amends.apiUrl" -}}
{{- default (printf "http://%s-api:%d" (include "amends.fullname" .) (int .Values.api.service.port)) .Values.messages.apiUrl -}}
{{- end -}}

{{- /* A map of settings as TOML. JSON's strings, numbers and booleans are TOML's. */ -}}
{{- define "amends.toml" -}}
{{- range $key, $value := . }}
{{ $key }} = {{ $value | toJson }}
{{- end }}
{{- end -}}

{{- /* The settings of a role: its own ones come first, also where they are false, 0 or empty. */ -}}
{{- define "amends.settings" -}}
{{- include "amends.toml" (mergeOverwrite (dict) .root.Values.settings .role.values.settings) | trim -}}
{{- end -}}

{{- define "amends.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "amends.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- /* The annotations of what `amends migrate` needs before anything else of the release exists. */ -}}
{{- define "amends.hook" -}}
helm.sh/hook: pre-install,pre-upgrade
helm.sh/hook-weight: {{ .weight | quote }}
helm.sh/hook-delete-policy: {{ .delete }}
{{- end -}}

{{- /* Mistakes that the schema cannot see. Each is one line that names the value. */ -}}
{{- define "amends.check" -}}
{{- $roles := (include "amends.roles" . | fromYaml).roles -}}
{{- if not $roles -}}{{- fail "api.enabled, engine.enabled, workers.*.enabled: none is true, so there is nothing to install" -}}{{- end -}}
{{- if not .Values.kafka.brokers -}}{{- fail "kafka.brokers is needed: HOST:PORT, several separated by commas" -}}{{- end -}}
{{- if and .Values.kafka.caFile (not .Values.kafka.tls) -}}{{- fail "kafka.caFile needs kafka.tls: true" -}}{{- end -}}
{{- if .Values.kafka.sasl.mechanism -}}
{{- if not .Values.kafka.sasl.existingSecret -}}{{- fail "kafka.sasl.existingSecret is needed with kafka.sasl.mechanism: the passwords" -}}{{- end -}}
{{- if and (eq .Values.kafka.sasl.mechanism "PLAIN") (not .Values.kafka.tls) -}}{{- fail "kafka.sasl.mechanism PLAIN sends the password as it is: it needs kafka.tls: true" -}}{{- end -}}
{{- else if .Values.kafka.sasl.existingSecret -}}{{- fail "kafka.sasl.existingSecret needs kafka.sasl.mechanism" -}}
{{- end -}}
{{- if eq (int .Values.metricsPort) 8080 -}}{{- fail "metricsPort: 8080 is the port of each role" -}}{{- end -}}
{{- if .Values.database.existingSecret -}}
{{- range $name, $url := .Values.database.urls -}}
{{- if $url -}}{{- fail (printf "database.urls.%s must not be set beside database.existingSecret: URLs come from one place" $name) -}}{{- end -}}
{{- end -}}
{{- else -}}
{{- range $roles -}}
{{- if not (get $.Values.database.urls .database) -}}{{- fail (printf "database.urls.%s is needed (or database.existingSecret): the %s's database" .database .name) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- if or .Values.api.enabled .Values.workers.inventory.enabled .Values.workers.notification.enabled -}}
{{- if and (not .Values.serviceToken.existingSecret) (not .Values.serviceToken.value) -}}{{- fail "serviceToken.existingSecret or serviceToken.value is needed: the api and the inventory and notification workers serve each other only with it" -}}{{- end -}}
{{- if and .Values.serviceToken.existingSecret .Values.serviceToken.value -}}{{- fail "serviceToken.value must not be set beside serviceToken.existingSecret: the token comes from one place" -}}{{- end -}}
{{- end -}}
{{- if and .Values.webhookKey.existingSecret .Values.webhookKey.value -}}{{- fail "webhookKey.value must not be set beside webhookKey.existingSecret: the key comes from one place" -}}{{- end -}}
{{- if and .Values.redis.existingSecret .Values.redis.url -}}{{- fail "redis.url must not be set beside redis.existingSecret: the URL comes from one place" -}}{{- end -}}
{{- if and .Values.redis.caFile (not (include "amends.redis" .)) -}}{{- fail "redis.caFile needs redis.existingSecret or redis.url" -}}{{- end -}}
{{- if and .Values.workers.notification.enabled (not .Values.api.enabled) (not .Values.messages.apiUrl) -}}{{- fail "messages.apiUrl is needed, because the api is not part of this release" -}}{{- end -}}
{{- if .Values.migrate.enabled -}}
{{- if and (not .Values.migrate.existingSecret) (not .Values.migrate.databaseUrl) -}}{{- fail "migrate.existingSecret or migrate.databaseUrl is needed: a role that may create databases (or migrate.enabled: false)" -}}{{- end -}}
{{- if and .Values.migrate.existingSecret .Values.migrate.databaseUrl -}}{{- fail "migrate.databaseUrl must not be set beside migrate.existingSecret: the URL comes from one place" -}}{{- end -}}
{{- end -}}
{{- if .Values.api.enabled -}}
{{- $auth := .Values.api.auth -}}
{{- $keys := 0 -}}
{{- range list $auth.jwksUrl $auth.publicKey $auth.none -}}{{- if . -}}{{- $keys = add1 $keys -}}{{- end -}}{{- end -}}
{{- if ne (int $keys) 1 -}}{{- fail "api.auth: exactly one of jwksUrl, publicKey and none must be set" -}}{{- end -}}
{{- if and (not $auth.none) (not $auth.issuer) -}}{{- fail "api.auth.issuer is needed beside keys: what `iss` of every token must say" -}}{{- end -}}
{{- if and (not $auth.none) (not $auth.audience) -}}{{- fail "api.auth.audience is needed beside keys: what `aud` of every token must say" -}}{{- end -}}
{{- if and (not .Values.workers.inventory.enabled) (not .Values.api.inventoryUrl) -}}{{- fail "api.inventoryUrl is needed, because workers.inventory is not part of this release" -}}{{- end -}}
{{- if and (not .Values.workers.notification.enabled) (not .Values.api.notificationUrl) -}}{{- fail "api.notificationUrl is needed, because workers.notification is not part of this release" -}}{{- end -}}
{{- if and $auth.none .Values.api.ingress.enabled -}}{{- fail "api.ingress.enabled: with api.auth.none the api listens on loopback only" -}}{{- end -}}
{{- if and .Values.api.ingress.enabled (not .Values.api.ingress.hosts) -}}{{- fail "api.ingress.hosts is needed with api.ingress.enabled" -}}{{- end -}}
{{- end -}}
{{- range $roles -}}
{{- $role := . -}}
{{- with .values.autoscaling -}}
{{- if .enabled -}}
{{- if gt (int .minReplicas) (int .maxReplicas) -}}{{- fail (printf "%s: autoscaling.minReplicas %d is more than maxReplicas %d" $role.name (int .minReplicas) (int .maxReplicas)) -}}{{- end -}}
{{- with $role.partitions -}}
{{- $settings := mergeOverwrite (dict) $.Values.settings $role.values.settings -}}
{{- $partitions := int (default 12 (get $settings .)) -}}
{{- if gt (int $role.values.autoscaling.maxReplicas) $partitions -}}{{- fail (printf "%s: autoscaling.maxReplicas %d is more than settings.%s (%d): the others would have nothing to do" $role.name (int $role.values.autoscaling.maxReplicas) . $partitions) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* The name of the port with health and metrics. */ -}}
{{- define "amends.metricsPortName" -}}
{{- if .Values.metricsPort -}}metrics{{- else -}}http{{- end -}}
{{- end -}}

{{- /* Files of Secrets: the volumes of a pod, and where they are mounted. */ -}}
{{- define "amends.secretVolumes" -}}
{{- range $number, $files := .Values.secretFiles }}
- name: secret-files-{{ $number }}
  secret: {secretName: {{ $files.secret }}, defaultMode: 0440}
{{- end }}
{{- end -}}
{{- define "amends.secretMounts" -}}
{{- range $number, $files := .Values.secretFiles }}
- {name: secret-files-{{ $number }}, mountPath: {{ $files.mountPath }}, readOnly: true}
{{- end }}
{{- end -}}

{{- /* How often a probe is made. A role gives up starting by itself (`start_timeout`, 10 s). */ -}}
{{- define "amends.probe" -}}
{{- if eq . "startup" -}}
periodSeconds: 1
timeoutSeconds: 2
failureThreshold: 60
{{- else if eq . "liveness" -}}
periodSeconds: 10
timeoutSeconds: 5
failureThreshold: 6
{{- else -}}
periodSeconds: 5
timeoutSeconds: 3
failureThreshold: 2
{{- end -}}
{{- end -}}

{{- /* Rules of a NetworkPolicy: where a pod may connect to. */ -}}
{{- define "amends.egress" -}}
{{- $root := .root -}}
{{- range .to }}
{{- if eq . "dns" }}
- ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
{{- else }}
{{- $peer := get $root.Values.networkPolicy.egress . }}
- ports:
    {{- range $peer.ports }}
    - {port: {{ int . }}, protocol: TCP}
    {{- end }}
  {{- with $peer.to }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}
{{- end -}}
