//! What is built.

pub struct Case {
    pub name: &'static str,
    pub base: &'static str,
    pub dockerfile: String,
    pub files: Vec<(String, Vec<u8>)>,
    /// Results differ from run to run: only the configuration is compared.
    pub varies: bool,
}

pub fn cases() -> Vec<Case> {
    let busybox = |name, dockerfile: &str, files| Case {
        name,
        base: "busybox:1",
        dockerfile: format!("FROM busybox:1{dockerfile}"),
        files,
        varies: false,
    };
    let file = |name: &str, text: &str| (name.to_owned(), text.as_bytes().to_vec());
    let many = (0..2000).map(|i| {
        let name = format!("src/{}/{i}.txt", i % 40);
        (name, format!("{i}\n").repeat(i % 300 + 1).into_bytes())
    });
    let mut all = vec![
        busybox(
            "instructions",
            " AS one\nARG A=1\nENV X=$A Y=\"a b\"\nLABEL l=1\nEXPOSE 80 53/udp\nVOLUME /v\nWORKDIR /w/x\nCOPY a b/\nCOPY --chown=33:34 --chmod=640 a /d\nADD a /e\nRUN echo $X > /f; mkdir -p /g/h; rm /w/x/b/a\nUSER 33\nRUN id -u\nSTOPSIGNAL SIGINT\nENTRYPOINT [\"/bin/sh\"]\nCMD [\"-c\", \"x\"]\nFROM one\nRUN cat /f\nONBUILD RUN true\nHEALTHCHECK CMD true\nSHELL [\"/bin/sh\", \"-c\"]",
            vec![file("a", "1\n")],
        ),
        busybox(
            "links and whiteouts",
            "\nRUN mkdir -p /a/b; echo 1 > /a/b/c; ln -s b /a/l; ln /a/b/c /a/h\nRUN rm -r /a/b; mkdir /a/b; echo 2 > /a/b/d\nRUN echo 3 > /a/l/e; chmod 1777 /a",
            vec![],
        ),
        busybox(
            "twenty commands",
            &(0..20)
                .map(|i| format!("\nRUN echo {i} > /f{i}"))
                .collect::<String>(),
            vec![],
        ),
        busybox(
            "two thousand files",
            "\nCOPY . /src\nRUN find /src -type f | wc -l > /n",
            many.collect(),
        ),
        busybox(
            "four stages",
            &format!(
                " AS a\nRUN {work} > /a\nFROM busybox:1 AS b\nRUN {work} > /b\nFROM busybox:1 AS c\nRUN {work} > /c\nFROM busybox:1\nRUN {work} > /d\nCOPY --from=a /a /\nCOPY --from=b /b /\nCOPY --from=c /c /",
                work = "seq 1 3000000 | wc -l"
            ),
            vec![],
        ),
        busybox(
            "a large file",
            "\nRUN dd if=/dev/zero of=/big bs=1M count=200 2>/dev/null\nRUN cp /big /copy",
            vec![],
        ),
    ];
    all.push(Case {
        name: "a Go project",
        base: "golang:1",
        dockerfile: "FROM golang:1 AS build\nWORKDIR /src\nCOPY go.mod ./\nRUN go version\nCOPY . .\nRUN CGO_ENABLED=0 GOFLAGS=-trimpath go build -o /app .\nFROM scratch\nCOPY --from=build /app /app\nENTRYPOINT [\"/app\"]".into(),
        files: vec![
            file("go.mod", "module shop\n\ngo 1.21\n"),
            file("main.go", "package main\n\nimport (\n\t\"fmt\"\n\t\"net/http\"\n)\n\nfunc main() {\n\thttp.HandleFunc(\"/\", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, \"hello\") })\n\t_ = http.ListenAndServe(\":8080\", nil)\n}\n"),
        ],
        varies: true,
    });
    all.push(Case {
        name: "a Node project",
        base: "node:20",
        dockerfile: "FROM node:20 AS deps\nWORKDIR /app\nCOPY package.json package-lock.json ./\nRUN npm ci --offline --no-audit --no-fund\nFROM node:20\nWORKDIR /app\nENV NODE_ENV=production\nCOPY --from=deps /app/node_modules ./node_modules\nCOPY . .\nRUN node -e \"require('left')\"\nUSER 1000\nEXPOSE 3000\nCMD [\"node\", \"server.js\"]".into(),
        files: vec![
            file("package.json", r#"{"name":"shop","version":"1.0.0","dependencies":{"left":"file:left"}}"#),
            file("package-lock.json", r#"{"name":"shop","version":"1.0.0","lockfileVersion":3,"requires":true,"packages":{"":{"name":"shop","version":"1.0.0","dependencies":{"left":"file:left"}},"left":{"version":"1.0.0"},"node_modules/left":{"resolved":"left","link":true}}}"#),
            file("left/package.json", r#"{"name":"left","version":"1.0.0","main":"index.js"}"#),
            file("left/index.js", "module.exports = (s, n) => s.padStart(n);\n"),
            file("server.js", "require('http').createServer((q, r) => r.end('hello')).listen(3000)\n"),
        ],
        varies: true,
    });
    all
}
