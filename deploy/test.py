#!/usr/bin/env python3
"""The image of deploy/image.py, unpacked and used: the same bytes twice, programs that start with what is in it, as a user without
privileges too, names that are resolved, certificates that are found, a bill that names what is in it. Needs root (chroot, a port for names).

    deploy/test.py [PROGRAM]      target/debug/holdfast unless said; of a release build the size is held as well
"""

import gzip
import hashlib
import io
import json
import os
import socket
import ssl
import subprocess
import sys
import tarfile
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAME = "store.holdfast.test"
RESOLVER = "127.0.0.77"


def made(program, out):
    sizes = [] if "release" in program.parts else ["--any-size"]
    subprocess.run([ROOT / "deploy/image.py", "--holdfast", program, "--out", out, *sizes], check=True, stdout=subprocess.DEVNULL)
    return (out / "holdfast.tar").read_bytes(), (out / "holdfast.cdx.json").read_bytes()


def blob(image, described):
    content = image.extractfile(f"blobs/{described['digest'].replace(':', '/')}").read()
    assert len(content) == described["size"] and hashlib.sha256(content).hexdigest() == described["digest"].split(":")[1]
    return content


def unpacked(archive, into):
    """The layer, after every digest on the way to it."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as image:
        manifest = json.loads(blob(image, json.load(image.extractfile("index.json"))["manifests"][0]))
        config = json.loads(blob(image, manifest["config"]))
        content = gzip.decompress(blob(image, manifest["layers"][0]))
        assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(content).hexdigest()}"]
        docker = json.load(image.extractfile("manifest.json"))[0]
        assert image.getmember(docker["Config"]) and image.getmember(docker["Layers"][0])
    with tarfile.open(fileobj=io.BytesIO(content)) as layer:
        assert all((one.mtime, one.uid, one.gid) == (0, 0, 0) for one in layer)
        layer.extractall(into)
    return config["config"]


def inside(root, *command, user=0, environment=None, **more):
    def enter():
        os.chroot(root)
        os.chdir("/")
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    return subprocess.Popen(command, preexec_fn=enter, env=environment or {}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)


def answer_names():
    """Knows one name: 127.0.0.1, and no other kind of address."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((RESOLVER, 53))

    def serve():
        while True:
            asked, who = server.recvfrom(512)
            end = asked.index(b"\0", 12) + 5
            question = asked[12:end]
            known = question[:-4].replace(b"\5store\10holdfast\4test\0", b"") == b"" and question[-4:-2] == b"\0\1"
            record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x7f\0\0\1" if known else b""
            server.sendto(asked[:2] + b"\x81\x80\0\1" + (b"\0\1" if known else b"\0\0") + b"\0\0\0\0" + question + record, who)
    threading.Thread(target=serve, daemon=True).start()


class Refusing(BaseHTTPRequestHandler):
    """A store that is reached, and says no."""

    def refuse(self):
        self.server.hosts.append(self.headers["Host"])
        body = b"<Error><Code>AccessDenied</Code><Message>reached</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = refuse

    def log_message(self, *_):
        pass


def store_is_reached(root, scratch):
    authority, signing, certificate, key = (scratch / name for name in ["authority", "signing", "certificate", "key"])
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subprocess.run([*make, "-subj", "/CN=authority", "-keyout", signing, "-out", authority], check=True, capture_output=True)
    subprocess.run([*make, "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}", "-addext", "basicConstraints=critical,CA:FALSE",
                    "-CA", authority, "-CAkey", signing, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    server = HTTPServer(("127.0.0.1", 0), Refusing)
    server.hosts = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1]
    (root / "etc/resolv.conf").write_text(f"nameserver {RESOLVER}\n")
    trusted = root / "etc/ssl/certs/ca-certificates.crt"
    assert trusted.read_text().count("BEGIN CERTIFICATE") > 50
    with trusted.open("a") as out:
        out.write(authority.read_text())
    environment = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "HOME": "/tmp", "HOLDFAST_RUN_DIR": "/tmp/run"}
    url = f"s3://bucket/prefix?endpoint=https://{NAME}:{port}"
    said = inside(root, "/usr/bin/holdfast", "--store", url, "store", "probe", environment=environment, user=65532).communicate()[0]
    assert server.hosts and set(server.hosts) == {f"{NAME}:{port}"}, f"the store was not reached by its name: {said}"


def bill_is_whole(bill, files):
    told = json.loads(bill)
    assert (told["bomFormat"], told["specVersion"]) == ("CycloneDX", "1.5")
    names = {one["name"] for one in told["components"]}
    assert {"tokio", "rusqlite", "fuser", "libc6", "ca-certificates"} <= names, names
    assert "proptest" not in names, "what only tests need"
    references = [one["bom-ref"] for one in [*told["components"], told["metadata"]["component"]]]
    assert len(references) == len(set(references))
    assert all(set(one["dependsOn"]) <= set(references) for one in told["dependencies"])
    assert files.joinpath("usr/share/sbom/holdfast.cdx.json").read_bytes() == bill


def main():
    program = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/debug/holdfast").resolve()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        first, bill = made(program, scratch / "one")
        assert (first, bill) == made(program, scratch / "two"), "two images of the same inputs differ"
        files = scratch / "files"
        config = unpacked(first, files)
        scratch.chmod(0o755)
        for name in ["holdfast", "holdfast-keeper"]:
            for user in [0, 65532]:
                started = inside(files, f"/usr/bin/{name}", "--version", user=user)
                said = started.communicate()[0]
                assert started.returncode == 0 and said.startswith(f"{name} "), said
        assert config["Entrypoint"] == ["/usr/bin/holdfast"]
        assert (files / "tmp").stat().st_mode & 0o7777 == 0o1777
        bill_is_whole(bill, files)
        answer_names()
        store_is_reached(files, scratch)
    print("the image is good")


main()
