#!/usr/bin/env python3
"""Verifies an export of the audit as docs/audit.md describes it, with Python's standard library alone.

    verify_audit.py [--checkpoints FILE] EXPORT

Prints a line for each node; ends with 0 when every chain holds, with 1 otherwise.
"""

import argparse
import base64
import hashlib
import json
import sys

# Ed25519 (RFC 8032, section 5.1 and the reference code of its section 6).
P = 2**255 - 19
Q = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT = pow(2, (P - 1) // 4, P)


def add(a, b):
    x1, y1, z1, t1 = a
    x2, y2, z2, t2 = b
    e, f = (y1 - x1) * (y2 - x2) % P, (y1 + x1) * (y2 + x2) % P
    g, h = 2 * t1 * t2 * D % P, 2 * z1 * z2 % P
    e, f, g, h = f - e, h - g, h + g, f + e
    return e * f % P, g * h % P, f * g % P, e * h % P


def multiply(scalar, point):
    result = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point = add(point, point)
        scalar >>= 1
    return result


def recover(y, sign):
    if y >= P:
        raise ValueError("not a point")
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT % P
    if (x * x - square) % P or (x == 0 and sign):
        raise ValueError("not a point")
    return P - x if x & 1 != sign else x


def point(data):
    number = int.from_bytes(data, "little")
    sign, y = number >> 255, number & ((1 << 255) - 1)
    x = recover(y, sign)
    return x, y, 1, x * y % P


BASE = (recover(4 * pow(5, P - 2, P) % P, 0), 4 * pow(5, P - 2, P) % P)
BASE = (BASE[0], BASE[1], 1, BASE[0] * BASE[1] % P)


def signed(public, message, signature):
    if len(public) != 32 or len(signature) != 64:
        return False
    try:
        a, r = point(public), point(signature[:32])
    except ValueError:
        return False
    s = int.from_bytes(signature[32:], "little")
    if s >= Q:
        return False
    h = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % Q
    left, right = multiply(s, BASE), add(r, multiply(h, a))
    return (left[0] * right[2] - right[0] * left[2]) % P == 0 and (left[1] * right[2] - right[1] * left[2]) % P == 0


class Broken(Exception):
    def __init__(self, seq, reason):
        super().__init__(f"event {seq}: {reason}")


def once(pairs):
    """A JSON object whose members are there once."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is there twice")
    return members


def canonical(value):
    """RFC 8785 for what events hold: texts, whole numbers, null, true, false, lists, objects."""
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return "{" + ",".join(canonical(name) + ":" + canonical(value[name]) for name in names) + "}"
    if isinstance(value, list):
        return "[" + ",".join(canonical(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def chain(node, lines):
    """Checks the events of one node; their hashes by seq."""
    hashes, before = {}, "0" * 64
    for seq, line in enumerate(lines, 1):
        try:
            event = json.loads(line, object_pairs_hook=once)
        except ValueError as error:
            raise Broken(seq, f"changed: {error}") from error
        if event.get("node") != node:
            raise Broken(seq, "another node's event stands in its place")
        if event.get("seq") != seq:
            found = event.get("seq")
            late = isinstance(found, int) and found < seq
            raise Broken(found if late else seq, "doubled or out of order" if late else "missing")
        stated = event.pop("hash", None)
        if hashlib.sha256(canonical(event).encode()).hexdigest() != stated:
            raise Broken(seq, "changed: its hash does not fit")
        if event.get("prev") != before:
            raise Broken(seq, "it does not follow the event before it")
        hashes[seq] = before = stated
    return hashes


def decoded(part):
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def read_checkpoints(path):
    """The claims of every checkpoint of the file; all of them must be signed."""
    with open(path, encoding="utf-8") as file:
        document = json.load(file)
    keys = {key["kid"]: decoded(key["x"]) for key in document["keys"]}
    for token in document["checkpoints"]:
        header, claims, signature = token.split(".")
        named = json.loads(decoded(header))
        if named["alg"] != "EdDSA" or named["typ"] != "portcullis-audit-checkpoint+jwt":
            raise SystemExit("a checkpoint is of another type")
        if not signed(keys[named["kid"]], f"{header}.{claims}".encode(), decoded(signature)):
            raise SystemExit("a checkpoint's signature does not fit")
        yield json.loads(decoded(claims))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoints")
    parser.add_argument("export")
    arguments = parser.parse_args()
    nodes, node = {}, "?"
    with open(arguments.export, encoding="utf-8", newline="\n") as file:
        for line in file.read().split("\n"):
            if not line.strip():
                continue
            try:
                node = str(json.loads(line)["node"])
            except (ValueError, KeyError, TypeError):
                pass  # Damaged: of the node of the line before it, whose chain breaks here.
            nodes.setdefault(node, []).append(line)
    checkpoints = list(read_checkpoints(arguments.checkpoints)) if arguments.checkpoints else []
    for checkpoint in checkpoints:
        nodes.setdefault(checkpoint["node"], [])
    well = True
    for node, lines in sorted(nodes.items()):
        try:
            hashes = chain(node, lines)
            for checkpoint in checkpoints:
                if checkpoint["node"] != node:
                    continue
                seq = checkpoint["seq"]
                if seq not in hashes:
                    raise Broken(len(hashes) + 1, f"missing: event {seq} was signed at {checkpoint['time']}")
                if hashes[seq] != checkpoint["hash"]:
                    raise Broken(seq, f"not the event that was signed at {checkpoint['time']}")
            print(f"{node!r}: {len(hashes)} events, the chain holds")
        except Broken as broken:
            well = False
            print(f"{node!r}: {broken}")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
