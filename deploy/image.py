#!/usr/bin/env python3
"""Holdfast's container image, assembled without a Docker daemon and without a base image to pull.

    deploy/image.py [--tag holdfast:0.1.0] [--out DIR] [--holdfast PROGRAM] [--keeper PROGRAM] [--any-size]

Makes DIR/holdfast.tar (an OCI image layout that is a Docker archive as well: `ctr images import`, `docker load`, `podman load`)
and DIR/holdfast.cdx.json (its bill of materials, CycloneDX 1.5). In the image: both programs, stripped; the libraries that they
ask the loader for, and those by which the C library resolves names, from this machine; the certificates of this machine; licences.
There is no shell and no package manager. Needs python3, strip, ldd and cargo (for its metadata; nothing is built).

The same inputs give the same bytes: times are SOURCE_DATE_EPOCH (0 unless set), names are in order, nothing else of the machine gets in.
More than 40 MB unpacked are refused, as they are a mistake (a program that was not built with --release), unless --any-size is given.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import platform
import re
import subprocess
import sys
import tarfile
import tempfile
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SIZE_MAX = 40_000_000
EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
# Older C libraries load these when a name is looked up; newer ones have them inside, and these are stubs.
RESOLVERS = ["libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2"]
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
TEXTS = {
    "etc/passwd": "root:x:0:0:root:/:/sbin/nologin\nholdfast:x:65532:65532:holdfast:/:/sbin/nologin\n",
    "etc/group": "root:x:0:\nholdfast:x:65532:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
DIRECTORIES = {"tmp": 0o1777, "run": 0o755, "var": 0o755, "var/lib": 0o755, "var/cache": 0o755, "proc": 0o555, "sys": 0o555, "dev": 0o755}


def fail(why):
    sys.exit(f"deploy/image.py: {why}")


def said(*command, **more):
    done = subprocess.run(command, capture_output=True, text=True, **more)
    if done.returncode != 0:
        fail(f"{' '.join(map(str, command))} failed: {done.stderr.strip()}")
    return done.stdout


def stripped(program, scratch):
    if not program.is_file():
        fail(f"there is no program {program}: build it first, with `make build`")
    out = scratch / program.name
    said("strip", "--strip-all", "-o", out, program)
    return out.read_bytes()


def libraries(programs):
    """What the loader is asked for, by the path at which it looks."""
    found = set()
    for program in programs:
        asked = subprocess.run(["ldd", program], capture_output=True, text=True)
        listed = asked.stdout + asked.stderr
        # The keeper, as `make build` makes it.
        if "statically linked" in listed or "not a dynamic executable" in listed:
            continue
        if asked.returncode != 0:
            fail(f"ldd {program} failed: {listed.strip()}")
        if missing := re.search(r"(\S+) => not found", listed):
            fail(f"{program} needs {missing[1]}, which is not on this machine")
        found.update(re.findall(r"(?:=> |^\s)(/\S+) \(0x", listed, re.M))
    directories = {str(Path(path).parent) for path in found if "libc.so" in path}
    found.update(f"{directory}/{name}" for directory in directories for name in RESOLVERS if Path(directory, name).exists())
    return sorted(found)


def packages(paths):
    """The Debian packages of these files, where this is a Debian: name, version, its copyright file."""
    found = {}
    for path in paths:
        for candidate in (path, os.path.realpath(path), f"/usr{path}"):
            try:
                owner = subprocess.run(["dpkg", "-S", candidate], capture_output=True, text=True)
            except FileNotFoundError:
                return {}
            if owner.returncode == 0:
                name = owner.stdout.split(":")[0].split(",")[0]
                found[name] = said("dpkg-query", "-W", "-f", "${Version}", name)
                break
    return dict(sorted(found.items()))


def crates():
    """Every crate that is linked into the programs, from the lock file."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", f"{platform.machine()}-unknown-linux-gnu"]
    metadata = json.loads(said(*command, cwd=ROOT))
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    linked, waiting = {}, [metadata["resolve"]["root"]]
    while waiting:
        name = waiting.pop()
        if name in linked:
            continue
        # Neither what tests need nor what runs only while it is built.
        linked[name] = [d["pkg"] for d in nodes[name]["deps"] if any(kind["kind"] is None for kind in d["dep_kinds"])]
        waiting += linked[name]
    return {p["id"]: p for p in metadata["packages"] if p["id"] in linked}, linked, metadata["resolve"]["root"]


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package):
    told = {"type": "library", "bom-ref": purl(package), "name": package["name"], "version": package["version"], "purl": purl(package)}
    if package.get("license"):
        told["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    return told


def bill(debian):
    known, linked, root = crates()
    ours = {**component(known[root]), "type": "application"}
    others = sorted((component(p) for key, p in known.items() if key != root), key=lambda told: told["bom-ref"])
    for name, version in debian.items():
        reference = f"pkg:deb/debian/{name}@{version}?arch={ARCHITECTURES[platform.machine()]}"
        others.append({"type": "library", "bom-ref": reference, "name": name, "version": version, "purl": reference})
    depends = [{"ref": purl(known[key]), "dependsOn": sorted({purl(known[other]) for other in on})} for key, on in linked.items()]
    told = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": ours, "tools": {"components": [{"type": "application", "name": "deploy/image.py"}]}},
        "components": others,
        "dependencies": sorted(depends, key=lambda one: one["ref"]),
    }
    text = json.dumps(told, sort_keys=True)
    told["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, text)}"
    return json.dumps(told, indent=1, sort_keys=True).encode() + b"\n", known[root]["version"], known[root].get("license") or ""


def entry(name, mode, size=0, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.mode, info.size, info.type, info.mtime = mode, size, kind, EPOCH
    return info


def layer(files):
    """One layer: directories before what is in them, in order of names."""
    above = {str(parent) for name in files for parent in Path(name).parents if str(parent) != "."}
    directories = {**{name: 0o755 for name in above}, **DIRECTORIES}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted({*directories, *files}):
            if name in files:
                mode, content = files[name]
                tar.addfile(entry(name, mode, len(content)), io.BytesIO(content))
            else:
                tar.addfile(entry(f"{name}/", directories[name], kind=tarfile.DIRTYPE))
    return out.getvalue()


def described(kind, content, blobs):
    digest = hashlib.sha256(content).hexdigest()
    blobs[f"blobs/sha256/{digest}"] = content
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(content)}


def compact(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def image(files, tag, version, licence, out):
    blobs, content = {}, layer(files)
    packed = described("layer.v1.tar+gzip", gzip.compress(content, 9, mtime=EPOCH), blobs)
    system = {"architecture": ARCHITECTURES[platform.machine()], "os": "linux"}
    labels = {"title": "holdfast", "version": version, "licenses": licence}
    config = described("config.v1+json", compact({
        **system,
        "config": {
            "Entrypoint": ["/usr/bin/holdfast"],
            "Env": ["PATH=/usr/bin", "HOME=/"],
            "Labels": {f"org.opencontainers.image.{key}": value for key, value in labels.items()},
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(content).hexdigest()}"]},
    }), blobs)
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = described("manifest.v1+json", compact({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [packed]}), blobs)
    manifest["platform"] = system
    manifest["annotations"] = {"io.containerd.image.name": tag, "org.opencontainers.image.ref.name": tag.rsplit(":", 1)[1]}
    place = lambda what: f"blobs/sha256/{what['digest'].split(':')[1]}"
    texts = {
        "oci-layout": compact({"imageLayoutVersion": "1.0.0"}),
        "index.json": compact({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest]}),
        # For `docker load` of any age.
        "manifest.json": compact([{"Config": place(config), "RepoTags": [tag], "Layers": [place(packed)]}]),
    }
    with tarfile.open(out, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, text in [*sorted(texts.items()), *sorted(blobs.items())]:
            tar.addfile(entry(name, 0o644, len(text)), io.BytesIO(text))
    return len(content), len(blobs[place(packed)])


def main():
    take = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    take.add_argument("--tag")
    take.add_argument("--out", type=Path, default=ROOT / "target/image")
    take.add_argument("--holdfast", type=Path, default=ROOT / "target/release/holdfast")
    take.add_argument("--keeper", type=Path)
    take.add_argument("--any-size", action="store_true")
    given = take.parse_args()
    if platform.machine() not in ARCHITECTURES:
        fail(f"{platform.machine()} is no machine that images are made for")
    programs = [given.holdfast, given.keeper or given.holdfast.with_name("holdfast-keeper")]
    with tempfile.TemporaryDirectory() as scratch:
        files = {f"usr/bin/{name}": (0o755, stripped(program, Path(scratch)))
                 for name, program in zip(["holdfast", "holdfast-keeper"], programs)}
    needed = libraries(programs)
    # The file of all certificates is made by this program, and no package's own.
    debian = packages([*needed, "/usr/sbin/update-ca-certificates"])
    sbom, version, licence = bill(debian)
    files.update({path.lstrip("/"): (0o755, Path(path).read_bytes()) for path in needed})
    files.update({name: (0o644, text.encode()) for name, text in TEXTS.items()})
    if not Path(CERTIFICATES).is_file():
        fail(f"{CERTIFICATES} is missing: install ca-certificates")
    files[CERTIFICATES.lstrip("/")] = (0o644, Path(CERTIFICATES).read_bytes())
    files["usr/share/doc/holdfast/LICENSE"] = (0o644, (ROOT / "LICENSE").read_bytes())
    files["usr/share/sbom/holdfast.cdx.json"] = (0o644, sbom)
    for name in debian:
        if (text := Path(f"/usr/share/doc/{name}/copyright")).is_file():
            files[f"usr/share/doc/{name}/copyright"] = (0o644, text.read_bytes())
    unpacked = sum(len(content) for _, content in files.values())
    if unpacked > SIZE_MAX and not given.any_size:
        fail(f"{unpacked} bytes, more than {SIZE_MAX}: is {given.holdfast} a release build? (--any-size makes it all the same)")
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "holdfast.cdx.json").write_bytes(sbom)
    tag = given.tag or f"holdfast:{version}"
    whole, packed = image(files, tag, version, licence, given.out / "holdfast.tar")
    print(f"{given.out / 'holdfast.tar'}: {tag}, {whole / 1e6:.1f} MB unpacked, {packed / 1e6:.1f} MB packed")


main()
