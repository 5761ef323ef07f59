//! Plain manifests with what teams use every day: claims, config, secrets, probes, Jobs, an Ingress.

use crate::crew::{crew, eventually, text};

const MANIFEST: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: conf}
data: {greeting: hello, index.html: "from config"}
---
apiVersion: v1
kind: Secret
metadata: {name: sec}
stringData: {password: s3cret}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 3
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      initContainers:
      - {name: init, image: "busybox:1", command: [sh, -c, "echo $HOSTNAME > /data/who; echo init-done"], volumeMounts: [{name: data, mountPath: /data}]}
      containers:
      - name: main
        image: busybox:1
        command: [sh, -c, "exec httpd -f -p 80 -h /data"]
        env:
        - {name: GREETING, valueFrom: {configMapKeyRef: {name: conf, key: greeting}}}
        - {name: PW, valueFrom: {secretKeyRef: {name: sec, key: password}}}
        - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: MEM, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
        resources: {limits: {memory: 64Mi, cpu: 200m}}
        ports: [{containerPort: 80, name: http}]
        readinessProbe: {httpGet: {path: /who, port: http}, periodSeconds: 1}
        livenessProbe: {tcpSocket: {port: 80}, periodSeconds: 2}
        volumeMounts: [{name: data, mountPath: /data}, {name: conf, mountPath: /conf}, {name: sec, mountPath: /sec, readOnly: true}, {name: info, mountPath: /info}, {name: tmp, mountPath: /tmp}]
      volumes:
      - {name: conf, configMap: {name: conf}}
      - {name: sec, secret: {secretName: sec, defaultMode: 0400}}
      - {name: info, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
      - {name: tmp, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  volumeClaimTemplates:
  - {metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: front}
spec: {selector: {app: db}, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: in}
spec: {rules: [{host: db.test, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: front, port: {name: http}}}}]}}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: sum}
spec: {completions: 3, parallelism: 2, template: {spec: {restartPolicy: Never, containers: [{name: c, image: "busybox:1", command: [sh, -c, "echo job-done"]}]}}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: ds}
spec: {selector: {matchLabels: {app: ds}}, template: {metadata: {labels: {app: ds}}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: "busybox:1", command: [sleep, "100000"]}]}}}
"#;

#[test]
fn a_stateful_app_with_all_its_parts() {
    crew(|crew| {
        crew.busybox();
        crew.file("k8s/all.yaml", MANIFEST);
        crew.ok(&["up", "k8s"]);
        let inside = |pod: &str, script: &str| {
            let output = crew.kubectl(&["exec", pod, "-c", "main", "--", "sh", "-c", script]);
            assert!(output.status.success(), "{script}: {}", text(&output));
            String::from_utf8(output.stdout).unwrap().trim().to_string()
        };
        let cases = [
            (
                "an init container's work on the claim",
                "cat /data/who",
                "db-1",
            ),
            ("a ConfigMap's file", "cat /conf/greeting", "hello"),
            ("a Secret's file", "cat /sec/password", "s3cret"),
            (
                "the mode of a Secret's file",
                "ls -lL /sec/password | cut -c1-10",
                "-r--------",
            ),
            ("environment of a ConfigMap", "echo $GREETING", "hello"),
            ("environment of a Secret", "echo $PW", "s3cret"),
            ("environment of a limit", "echo $MEM", "67108864"),
            (
                "a label in a file",
                "grep -o 'app=.*' /info/labels",
                "app=\"db\"",
            ),
            ("its own name", "hostname", "db-1"),
            (
                "a sibling by its stable name",
                "wget -qO- http://db-2.db/who",
                "db-2",
            ),
            (
                "a sibling by its full name",
                "wget -qO- http://db-0.db.default.svc.cluster.local/who",
                "db-0",
            ),
            (
                "the limit of memory",
                "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null | head -1",
                "67108864",
            ),
        ];
        // a sibling's name is known some time after the sibling is ready
        for (name, script, expected) in cases {
            eventually(name, || match inside("db-1", &format!("{script}; true")) {
                said if said == expected => Ok(()),
                said => Err(said),
            });
        }
        assert!(
            crew.http("http://127.0.0.1/who").is_err(),
            "another host's route"
        );
        eventually("the Ingress's route", || {
            let asked = std::process::Command::new("curl")
                .args([
                    "-sS",
                    "--fail",
                    "-H",
                    "Host: db.test",
                    "http://127.0.0.1/who",
                ])
                .output()
                .unwrap();
            match text(&asked) {
                said if said.starts_with("db-") => Ok(()),
                said => Err(said),
            }
        });
        crew.kube("wait --for=condition=complete job/sum --timeout=180s");
        assert_eq!(crew.kube("logs job/sum --tail=1"), "job-done");
        assert_eq!(crew.kube("logs db-0 -c init"), "init-done");

        crew.kube("patch cm conf -p {\"data\":{\"greeting\":\"bye\"}}");
        eventually("the file follows the ConfigMap", || {
            match inside("db-0", "cat /conf/greeting") {
                now if now == "bye" => Ok(()),
                other => Err(other),
            }
        });
        // A Pod that is replaced finds its claim again.
        inside("db-1", "echo kept > /data/kept");
        crew.kube("delete pod db-1 --timeout=120s");
        eventually("db-1 is back", || {
            let output = crew.kubectl(&["exec", "db-1", "-c", "main", "--", "cat", "/data/kept"]);
            match text(&output).trim() {
                "kept" => Ok(()),
                other => Err(other.to_string()),
            }
        });
        crew.kube("set env sts/db ROUND=2");
        crew.kube("rollout status sts/db --timeout=180s");
        crew.ok(&["down", "k8s", "--volumes"]);
        // As everywhere, claims outlive their StatefulSet.
        crew.kube("delete pvc --all --timeout=120s");
        eventually("all has gone", || {
            match crew.kube("get pods,pvc,sts,job,svc,secret -o name") {
                left if left == "service/kubernetes" => Ok(()),
                left => Err(left),
            }
        });
    });
}
