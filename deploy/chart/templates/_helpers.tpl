{{/* Objects have fixed names: a node has one agent, its pins have one place, and a second release would fight the first. */}}
{{- define "shunt.labels" -}}
app.kubernetes.io/name: shunt
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* The addresses of the API servers with commas between; fails with what to do about it. */}}
{{- define "shunt.apiServers" -}}
{{- $how := "Set apiServers to the real addresses of the API servers, e.g. --set 'apiServers={https://192.0.2.1:6443}'; `kubectl get endpointslices -l kubernetes.io/service-name=kubernetes` and the kubeconfig of kube-proxy name them." }}
{{- if not .Values.apiServers }}
{{- fail (printf "apiServers is not set. A pod is told the cluster IP of the Service `kubernetes`, which only this agent would serve, so that it would wait for itself. %s" $how) }}
{{- end }}
{{- range .Values.apiServers }}
{{- if regexMatch "^https?://(kubernetes|kubernetes\\.default(\\..*)?)(:[0-9]+)?/?$" . }}
{{- fail (printf "apiServers: `%s` is the name of the Service `kubernetes`, behind which is a cluster IP. %s" . $how) }}
{{- end }}
{{- end }}
{{- join "," .Values.apiServers }}
{{- end }}

{{/* Address and port as the agent takes them; IPv6 in brackets. */}}
{{- define "shunt.listener" -}}
{{- if contains ":" .address }}[{{ .address }}]{{ else }}{{ .address }}{{ end }}:{{ .port }}
{{- end }}
