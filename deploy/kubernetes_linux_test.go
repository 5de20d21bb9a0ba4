package deploy

import (
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// at returns what stands in a document of YAML at a path of keys and indexes, and nil if nothing does.
func at(doc any, path ...any) any {
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, _ := doc.(map[string]any)
			doc = m[step]
		case int:
			list, _ := doc.([]any)
			if step >= len(list) {
				return nil
			}
			doc = list[step]
		}
	}
	return doc
}

// manifests returns the objects of a file by kind and name, as "Service peer".
func manifests(t *testing.T, file string) map[string]any {
	t.Helper()
	found := make(map[string]any)
	for _, text := range strings.Split(readText(t, file), "\n---\n") {
		doc := decode[map[string]any](t, text)
		name := fmt.Sprint(doc["kind"], " ", at(doc, "metadata", "name"))
		require.NotContains(t, found, name)
		found[name] = doc
	}
	return found
}

// pod is at, below the specification of the pods of a Deployment.
func pod(doc any, path ...any) any { return at(at(doc, "spec", "template", "spec"), path...) }

func words(list any) (words []string) {
	for i := 0; at(list, i) != nil; i++ {
		words = append(words, at(list, i).(string))
	}
	return words
}

func TestTheManifestsOfKubernetesFitTogether(t *testing.T) {
	files, err := filepath.Glob("kubernetes/*.yaml")
	require.NoError(t, err)
	require.Len(t, files, 3)
	for _, file := range files {
		objects := manifests(t, file)
		for name, doc := range objects {
			kind, _, _ := strings.Cut(name, " ")
			switch kind {
			case "Deployment":
				labels := at(doc, "spec", "template", "metadata", "labels")
				assert.Equal(t, labels, at(doc, "spec", "selector", "matchLabels"), "%s %s", file, name)
				assert.Equal(t, true, pod(doc, "securityContext", "runAsNonRoot"), "%s %s", file, name)
				security := pod(doc, "containers", 0, "securityContext")
				assert.Equal(t, false, at(security, "allowPrivilegeEscalation"), "%s %s", file, name)
				assert.Equal(t, []any{"ALL"}, at(security, "capabilities", "drop"), "%s %s", file, name)
			case "Service":
				target := at(objects, strings.Replace(name, kind, "Deployment", 1))
				require.NotNil(t, target, "%s %s", file, name)
				labels := at(target, "spec", "template", "metadata", "labels")
				assert.Equal(t, labels, at(doc, "spec", "selector"), "%s %s", file, name)
				port := at(doc, "spec", "ports", 0, "targetPort")
				if port == nil {
					port = at(doc, "spec", "ports", 0, "port")
				}
				own := pod(target, "containers", 0, "ports", 0)
				assert.Contains(t, []any{at(own, "containerPort"), at(own, "name")}, port, "%s %s", file, name)
			case "PodDisruptionBudget", "NetworkPolicy":
				target := at(objects, strings.Replace(name, kind, "Deployment", 1))
				selector := map[string]string{"PodDisruptionBudget": "selector", "NetworkPolicy": "podSelector"}[kind]
				labels := at(doc, "spec", selector, "matchLabels")
				assert.Equal(t, at(target, "spec", "template", "metadata", "labels"), labels, "%s %s", file, name)
			case "Ingress":
				for _, other := range []string{"kubernetes/one.yaml", "kubernetes/cluster.yaml"} {
					backend := at(doc, "spec", "rules", 0, "http", "paths", 0, "backend", "service")
					service := at(manifests(t, other), fmt.Sprint("Service ", at(backend, "name")))
					require.NotNil(t, service, other)
					assert.Equal(t, at(service, "spec", "ports", 0, "name"), at(backend, "port", "name"), other)
				}
				assert.Equal(t, at(doc, "spec", "rules", 0, "host"), at(doc, "spec", "tls", 0, "hosts", 0))
			default:
				t.Errorf("%s: no test knows the kind of %s", file, name)
			}
		}
	}
}

// The programs accept the flags, and answer the probes.
func TestTheServersOfKubernetesAnswerTheirProbes(t *testing.T) {
	for file, program := range map[string]string{"one.yaml": "peerjs", "cluster.yaml": "cluster"} {
		doc := at(manifests(t, "kubernetes/"+file), "Deployment peer")
		args := words(pod(doc, "containers", 0, "args"))
		redis := freeAddr(t) // nobody is there
		env := []string{}
		for i := 0; pod(doc, "containers", 0, "env", i) != nil; i++ {
			variable := pod(doc, "containers", 0, "env", i)
			if value, ok := at(variable, "value").(string); ok {
				value = strings.NewReplacer("$(REDIS_PASSWORD)", "0123abcd", "redis:6379", redis).Replace(value)
				env = append(env, fmt.Sprint(at(variable, "name"), "=", value))
			}
		}
		requireFlags(t, program, args, env)

		_, addr := startServer(t, program, nil, env)
		want := map[string]int{"/": http.StatusOK, "/healthz": http.StatusOK, "/readyz": http.StatusServiceUnavailable}
		for _, probe := range []string{"startupProbe", "readinessProbe", "livenessProbe"} {
			path, ok := pod(doc, "containers", 0, probe, "httpGet", "path").(string)
			if !ok {
				require.Equal(t, "startupProbe", probe)
				continue
			}
			require.Equal(t, want[path], status(t, http.DefaultClient, "http://"+addr+path), path)
		}

		requireMemory(t, doc, file)
		grace := time.Duration(pod(doc, "terminationGracePeriodSeconds").(int)) * time.Second
		if sleep, ok := pod(doc, "containers", 0, "lifecycle", "preStop", "sleep", "seconds").(int); ok {
			grace -= time.Duration(sleep) * time.Second
		}
		require.Greater(t, grace, drainTimeout(t, program), file)
	}
}

// requireMemory wants Go to know of the limit of the container, and to have some room below it.
func requireMemory(t *testing.T, doc any, file string) {
	t.Helper()
	limit, err := strconv.Atoi(strings.TrimSuffix(pod(doc, "containers", 0, "resources", "limits", "memory").(string), "Mi"))
	require.NoError(t, err)
	found := regexp.MustCompile(`GOMEMLIMIT, value: (\d+)MiB`).FindStringSubmatch(readText(t, "kubernetes/"+file))
	require.NotNil(t, found, file)
	soft, err := strconv.Atoi(found[1])
	require.NoError(t, err)
	require.Less(t, soft, limit, file)
	require.Greater(t, soft, limit*3/4, file)
}

// Only who has the password of the Secret is a node, also where the network enforces no policy.
func TestOnlyTheServersKnowThePasswordOfRedis(t *testing.T) {
	skipIfAbsent(t, "redis-server")
	objects := manifests(t, "kubernetes/cluster.yaml")
	host, port, err := net.SplitHostPort(freeAddr(t))
	require.NoError(t, err)
	password := strings.Repeat("0123abcd", 8)
	args := words(pod(objects["Deployment redis"], "containers", 0, "args"))
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "$(REDIS_PASSWORD)", password)
	}
	store := start(t, nil, "redis-server", append(args, "--bind", host, "--port", port)...)
	store.want(t, "Ready to accept connections")

	url := at(pod(objects["Deployment peer"], "containers", 0, "env", 1), "value").(string)
	url = strings.ReplaceAll(url, "redis:6379", net.JoinHostPort(host, port))
	require.Equal(t, "REDIS_URL", at(pod(objects["Deployment peer"], "containers", 0, "env", 1), "name"))
	for given, want := range map[string]int{password: http.StatusOK, "0123": http.StatusServiceUnavailable} {
		env := []string{"REDIS_URL=" + strings.ReplaceAll(url, "$(REDIS_PASSWORD)", given)}
		_, addr := startServer(t, "cluster", nil, env)
		require.Equal(t, want, status(t, http.DefaultClient, "http://"+addr+"/readyz"), given)
	}
}

// requirePart wants each key of part to be in whole, with the same value.
func requirePart(t *testing.T, part, whole any, where string) {
	t.Helper()
	switch part := part.(type) {
	case map[string]any:
		for key, value := range part {
			requirePart(t, value, at(whole, key), where+"."+key)
		}
	case []any:
		for i, value := range part {
			requirePart(t, value, at(whole, i), fmt.Sprint(where, ".", i))
		}
	default:
		require.Equal(t, part, whole, where)
	}
}

func TestThePageAboutClustersShowsTheManifest(t *testing.T) {
	block := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindStringSubmatch(readText(t, "../docs/cluster.md"))
	require.NotNil(t, block)
	shown := at(decode[map[string]any](t, block[1]), "spec")
	require.NotNil(t, shown)
	requirePart(t, shown, pod(at(manifests(t, "kubernetes/cluster.yaml"), "Deployment peer")), "spec")
}

// A release changes all of them at once.
func TestAllFilesNameImagesOfOneVersion(t *testing.T) {
	named, found := regexp.MustCompile(`ghcr\.io/gopeerjs/[\w-]+:([\w.-]+\w)`), make(map[string][]string)
	for _, pattern := range []string{"*.yml", "kubernetes/*.yaml", "../docs/*.md"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, file := range files {
			for _, image := range named.FindAllStringSubmatch(readText(t, file), -1) {
				found[image[1]] = append(found[image[1]], file)
			}
		}
	}
	require.Len(t, found, 1, "%v", found)
}
