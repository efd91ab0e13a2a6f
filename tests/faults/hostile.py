"""Files written to do harm, by kind: each a name and its content.

`command` is what a file would run if anything in it were executed.
"""

import io
import json
import pickle
import struct
import subprocess
import zipfile
import zlib

import numpy as np
import torch
from PIL import Image

Files = list[tuple[str, bytes]]


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return subprocess.check_call, (["sh", "-c", self.command],)


def configurations(command: str) -> Files:
    laughs = "a0: &a0 [x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
    )
    texts = {
        "billion laughs": laughs + "seed: *a11\n",
        "merged laughs": "a: &a {x: 1}\n" + "".join(
            f"b{n}: &b{n} {{<<: *{'a' if n == 0 else f'b{n - 1}'}, y{n}: [*a, *a]}}\n"
            for n in range(9)),
        "alias of itself": "seed: &a [*a]\n",
        "python call": f"seed: !!python/object/apply:os.system ['{command}']\n",
        "python new": f"seed: !!python/object/new:os.system ['{command}']\n",
        "python name": "seed: !!python/name:os.system\n",
        "python module": "seed: !!python/module:antigravity\n",
        "python tuple": "seed: !!python/tuple [1, 2]\n",
        "unknown tag": "seed: !exec 'id'\n",
        "binary": "seed: !!binary 'not base 64'\n",
        "month 13": "seed: 2024-13-45\n",
        "nesting": "seed: " + "[" * 20000 + "\n",
        "nested mappings": "".join(" " * n + "a:\n" for n in range(3000)),
        "key twice": "seed: 1\nseed: 2\n",
        "section twice": "data: {height: 64}\ndata: {width: 32}\n",
        "giant integer": "seed: " + "9" * 4000 + "\n",
        "endless digits": "seed: " + "9" * 100000 + "\n",
        "integer as float": "csdn: {visual: {optimizer: {lr: " + "9" * 400 + "}}}\n",
        "not a number": "csdn: {visual: {optimizer: {lr: .nan}}}\n",
        "sexagesimal": "seed: 190:20:30\n",
        "two documents": "seed: 1\n---\nseed: 2\n",
        "list": "- 1\n- 2\n",
        "number": "7\n",
        "key of a list": "? [a, b]\n: 1\n",
        "key of a mapping": "? {a: b}\n: 1\n",
        "null section": "data:\n",
        "escape in a key": '"\\e[31mseed": 1\n',
        "NUL in a path": 'data: {root: "a\\0b"}\n',
        "tabs": "seed:\t1\n\tdata: 2\n",
        "long": "# " + "x" * (2 << 20) + "\n",
    }  # fmt: skip
    return [(name, text.encode()) for name, text in texts.items()] + [
        ("UTF-16", "seed: 1\n".encode("utf-16")), ("NUL", b"seed: 1\0\n"), ("empty", b""),
        ("pickle", pickle.dumps(Payload(command))),
    ]  # fmt: skip


def safetensors(command: str) -> Files:
    """Of the tensors `features` and `person_ids`, headers that lie."""

    def file(header: object, data: bytes = b"\0" * 64, length: int | None = None) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + data

    def one(**changes: object) -> bytes:
        entry = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16], **changes}
        ids = {"dtype": "I64", "shape": [2], "data_offsets": [16, 32]}
        return file({"features": entry, "person_ids": ids}, b"\0" * 32)

    return [
        ("length 2^63", file({}, length=1 << 63)), ("length -1", file({}, length=(1 << 64) - 1)),
        ("length beyond", file({}, length=5000)), ("length 0", file({}, length=0)),
        ("huge header", file(b" " * (1 << 20))), ("nested", file(b'{"a":' * 100000)),
        ("no object", file([1])), ("nothing", b""), ("seven bytes", b"\0" * 7),
        ("overlap", one(data_offsets=[8, 24])), ("out of range", one(data_offsets=[0, 1 << 40])),
        ("reversed", one(data_offsets=[16, 0])), ("negative offset", one(data_offsets=[-8, 8])),
        ("overflow", one(shape=[1 << 62, 4])), ("negative shape", one(shape=[-2, -2])),
        ("fractions", one(shape=[1.5, 2])), ("unknown dtype", one(dtype="F128")),
        ("object dtype", one(dtype="O")), ("no dtype", one(dtype=None)),
        ("many dimensions", one(shape=[1] * 5000)), ("shape as text", one(shape="22")),
        ("metadata of numbers", file({"__metadata__": {"a": 1}})),
        ("hole", one(shape=[1, 2], data_offsets=[0, 8])),
        ("tail", one() + b"x" * 1000), ("pickle", pickle.dumps(Payload(command))),
    ]  # fmt: skip


def _npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def _npz(arrays: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in arrays.items():
            archive.writestr(name, content)
    return stream.getvalue()


def npz(command: str) -> Files:
    def array(value: np.ndarray) -> bytes:
        stream = io.BytesIO()
        np.save(stream, value, allow_pickle=True)
        return stream.getvalue()

    good = {"features.npy": array(np.ones((2, 3), np.float32)),
            "person_ids.npy": array(np.arange(2))}  # fmt: skip

    def headed(header: str, data: bytes = b"\0" * 24) -> bytes:
        return _npz({**good, "features.npy": _npy(header, data)})

    objects = np.empty(2, object)
    objects[:] = [Payload(command), 1]
    call = f"__import__('os').system('{command}')"
    shape = "{'descr': '%s', 'fortran_order': %s, 'shape': %s}"
    bomb = _npy(shape % ("<f4", False, "(25000000, 1)"), b"\0" * 100_000_000)
    lying = bytearray(_npz(good))
    # Sizes in the central directory.
    place = lying.index(b"PK\x01\x02")
    lying[place + 20 : place + 28] = struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFF0)
    encrypted = bytearray(_npz(good))
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    return [
        ("objects", _npz({**good, "person_ids.npy": array(objects)})),
        ("objects as features", _npz({**good, "features.npy": array(objects)})),
        ("pickle", pickle.dumps(Payload(command))), ("pickled member", _npz(
            {**good, "features.npy": pickle.dumps(Payload(command))})),
        ("zip bomb", _npz({**good, "features.npy": bomb}, zipfile.ZIP_DEFLATED)),
        ("shape 2^60", headed(shape % ("<f4", False, f"({1 << 60}, 4)"))),
        ("shape 2^70", headed(shape % ("<f4", False, f"({1 << 70}, 4)"))),
        ("shape 2^31", headed(shape % ("<f4", False, f"({1 << 31}, 1)"))),
        ("negative shape", headed(shape % ("<f4", False, "(-2, -3)"))),
        ("shape of texts", headed(shape % ("<f4", False, "('2', 3)"))),
        ("fortran", headed(shape % ("<f4", True, "(2, 3)"))),
        ("fortran as text", headed(shape % ("<f4", "'yes'", "(2, 3)"))),
        ("big-endian", headed(shape % (">f4", False, "(2, 3)"))),
        ("code", headed(call)), ("code in a shape", headed(shape % ("<f4", False, f"({call},)"))),
        ("nesting", headed("(" * 110)), ("minuses", headed("-" * 110 + "1")),
        ("no dictionary", headed("[1, 2]")),
        ("unknown dtype", headed(shape % ("<q9", False, "(2,)"))),
        ("record dtype", headed("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (2,)}")),
        ("leaving name", _npz({**good, "../../canary.npy": b"x", "/canary.npy": b"x"})),
        ("twice", _npz(good) + _npz(good)), ("lying sizes", bytes(lying)),
        ("encrypted", bytes(encrypted)), ("empty archive", _npz({})), ("empty", b""),
        ("one array", array(np.ones((2, 3)))),
    ]  # fmt: skip


def torch_weights(command: str) -> Files:
    def saved(value: object, **options: object) -> bytes:
        stream = io.BytesIO()
        torch.save(value, stream, **options)
        return stream.getvalue()

    script = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), script)
    state = {"visual.proj": torch.ones(2, 2), "x": Payload(command)}
    return [
        ("zip", saved(Payload(command))), ("zip of a state dict", saved(state)),
        ("old format", saved(Payload(command), _use_new_zipfile_serialization=False)),
        ("old state dict", saved(state, _use_new_zipfile_serialization=False)),
        *((f"pickle {n}", pickle.dumps(Payload(command), protocol=n)) for n in range(2, 6)),
        ("whole module", saved(torch.nn.Linear(2, 2))), ("TorchScript", script.getvalue()),
        ("nested", saved({"state_dict": {"a": {"b": torch.ones(1)}}})),
        ("numbers", saved({"a": 1})), ("list", saved([torch.ones(2)])), ("nothing", saved({})),
        ("other names", saved({"a": torch.ones(2)})), ("empty", b""), ("text", b"weights"),
        ("zip of others", _npz({"a/data.pkl": pickle.dumps(Payload(command))})),
    ]  # fmt: skip


def images(command: str) -> Files:
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    def png(width: int, height: int, depth: int = 8, kind: int = 2, *extra: bytes) -> bytes:
        rows = zlib.compress(b"\0" * 5000)
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + chunk(b"IDAT", rows) + chunk(
            b"IEND", b"")  # fmt: skip

    def saved(image: Image.Image, kind: str, **options: object) -> bytes:
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        return stream.getvalue()

    small = Image.new("RGB", (8, 16), "red")
    packed = zlib.compress(b"x" * 50_000_000)
    loop = bytearray(saved(small, "TIFF"))
    first = struct.unpack("<I", loop[4:8])[0]
    entries = struct.unpack("<H", loop[first : first + 2])[0]
    loop[first + 2 + 12 * entries :][:4] = struct.pack("<I", first)
    bmp = bytearray(saved(small, "BMP"))
    bmp[18:26] = struct.pack("<ii", 2_000_000_000, -2_000_000_000)
    eps = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%{command}) (w) file\n"
    return [
        ("30000 x 30000", png(30000, 30000)), ("2^31 x 2^31", png(1 << 31, 1 << 31)),
        ("one bit, 60000 x 60000", png(60000, 60000, 1, 0)), ("0 x 0", png(0, 0)),
        ("16 bit", png(20, 20, 16, 2)), ("bad depth", png(8, 8, 7, 9)),
        ("text bomb", png(8, 8, 8, 2, chunk(b"zTXt", b"a\0\0" + packed))),
        ("profile bomb", png(8, 8, 8, 2, chunk(b"iCCP", b"a\0\0" + packed))),
        ("broken profile", saved(small, "JPEG", icc_profile=b"\xff" * 400)),
        ("broken EXIF", saved(small, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\xff" * 90)),
        ("animated", saved(small, "GIF", save_all=True, append_images=[small.rotate(9 * n)
                                                                       for n in range(200)])),
        ("JPEG of 65500 x 65500", saved(small, "JPEG").replace(
            struct.pack(">HH", 16, 8), struct.pack(">HH", 65500, 65500), 1)),
        ("TIFF in a circle", bytes(loop)), ("BMP of 2^31", bytes(bmp)),
        ("PPM", b"P6\n99999 99999\n255\n" + b"x" * 99), ("PPM of digits", b"P6\n" + b"9" * 5000),
        ("EPS", eps.encode()), ("SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        ("GIF of 65535", b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\2D\1\0;"),
        ("pickle", pickle.dumps(b"x")), ("empty", b""), ("NUL", b"\0" * 4096),
    ]  # fmt: skip


_HEAD = "path,person_id,modality,split\n"


def manifests(command: str) -> Files:
    row = "a.png,1,visible,train\n"
    texts = {
        "NUL": _HEAD + "a\0.png,1,visible,train\n",
        "open quote": _HEAD + '"a.png,1,visible,train\n',
        "giant cell": _HEAD + "a" * 200_000 + ",1,visible,train\n",
        "100,000 columns": _HEAD.strip() + ",x" * 100_000 + "\n",
        "columns twice": "path,path,person_id,modality,split\n", "no header": row, "empty": "",
        "blank": "\n" * 10_000, "NaN": _HEAD + "a.png,nan,visible,train\n",
        "infinite": _HEAD + "a.png,inf,visible,train\n", "-2": _HEAD + "a.png,-2,visible,train\n",
        "endless id": _HEAD + f"a.png,{'9' * 5000},visible,train\n",
        "exponent": _HEAD + "a.png,1e5,visible,train\nb.png,1,visible,train\n",
        "junk in training": _HEAD + "a.png,-1,visible,train\n",
        "repeated": _HEAD + row * 5000, "escape": _HEAD + "a.png,\x1b[31m1,visible,train\n",
        "command": _HEAD + f"|{command},$({command}),`{command}`,train\n",
        "formula": _HEAD + f"=cmd('{command}'),1,visible,train\n",
        "semicolons": (_HEAD + row).replace(",", ";"), "carriage": _HEAD + row * 3 + "\r\r",
    }  # fmt: skip
    return [(name, text.encode()) for name, text in texts.items()] + [
        ("Latin-1", (_HEAD + "é.png,1,visible,train\n").encode("latin-1")),
        ("UTF-16", (_HEAD + row).encode("utf-16")), ("pickle", pickle.dumps(Payload(command))),
        ("UTF-8 and Latin-1", (_HEAD + "é.png").encode() + b"\xe9,1,visible,train\n"),
    ]  # fmt: skip


def parquet(command: str) -> Files:
    import pyarrow
    import pyarrow.parquet

    def file(**columns: object) -> bytes:
        given = {"path": ["a.png"], "person_id": ["1"], "modality": ["visible"],
                 "split": ["train"], **columns}  # fmt: skip
        stream = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table(given), stream, compression="zstd")
        return stream.getvalue()

    rows = (1 << 20) + 1
    return [
        ("rows without end", file(path=["a.png"] * rows, person_id=["1"] * rows,
                                  modality=["visible"] * rows, split=["train"] * rows)),
        ("giant cell", file(path=["a" * 80_000_000])),
        ("lists", file(path=[["a.png"]])), ("bytes", file(path=[b"\xff\xfe"])),
        ("objects", file(person_id=[{"a": 1}])), ("NaN", file(person_id=[float("nan")])),
        ("infinite", file(person_id=[float("inf")])), ("nulls", file(path=[None])),
        ("dates", file(person_id=pyarrow.array([1 << 62], pyarrow.timestamp("us")))),
        ("negative", file(person_id=[-(1 << 63)])), ("unsigned", file(
            person_id=pyarrow.array([(1 << 64) - 1], pyarrow.uint64()))),
        ("no rows", file(path=[], person_id=[], modality=[], split=[])),
        ("marks alone", b"PAR1PAR1"), ("pickle", pickle.dumps(Payload(command))), ("empty", b""),
    ]  # fmt: skip


def matlab(command: str) -> Files:
    def element(kind: int, data: bytes, length: int | None = None) -> bytes:
        head = struct.pack("<II", kind, len(data) if length is None else length)
        return head + data + b"\0" * (-len(data) % 8)

    def matrix(flags: int, shape: bytes, *parts: bytes) -> bytes:
        name = element(1, b"rand_perm_cam")
        head = element(6, struct.pack("<II", flags, 0)) + element(5, shape) + name
        return element(14, head + b"".join(parts))

    def file(*parts: bytes) -> bytes:
        return b" " * 124 + b"\x00\x01IM" + b"".join(parts)

    def packed(data: bytes) -> bytes:
        data = zlib.compress(data)
        return struct.pack("<II", 15, len(data)) + data

    one, cell = struct.pack("<ii", 1, 1), 1
    nested = element(14, b"")
    for _ in range(200):
        nested = matrix(cell, one, nested)
    shapes = {"2^31": (1 << 31) - 1, "minus": -1, "zero": 0}
    return [
        ("bomb", file(packed(element(14, b"\0" * 300_000_000)))),
        ("bomb in a bomb", file(packed(packed(b"\0" * 10_000)))),
        ("many bombs", file(*[packed(matrix(9, struct.pack("<ii", 1, 9_000_000),
                                            element(2, b"\0" * 9_000_000)))] * 30)),
        ("nested cells", file(nested)),
        ("nested shallow", file(matrix(cell, one, matrix(cell, one)))),
        *((f"cell of {n}", file(matrix(1, struct.pack("<ii", 1, v)))) for n, v in shapes.items()),
        *((f"matrix of {n}", file(matrix(6, struct.pack("<ii", v, v)))) for n, v in shapes.items()),
        ("cell of numbers", file(matrix(cell, one, element(9, b"\0" * 8)))),
        ("function", file(matrix(16, one, element(1, command.encode())))),
        ("object", file(matrix(3, one, element(1, b"a")))), ("text", file(matrix(4, one))),
        ("sparse", file(matrix(5, one, element(5, b"\0" * 4)))),
        ("no shape", file(matrix(cell, b""))), ("shape of 3", file(matrix(cell, b"\1\0\0"))),
        ("length beyond", file(element(14, b"", 1 << 30))),
        ("length -1", file(element(14, b"", 0xFFFFFFFF))),
        ("HDF5", b"\x89HDF\r\n\x1a\n" + b"\0" * 200), ("header alone", file()), ("empty", b""),
        ("pickle", pickle.dumps(Payload(command))),
    ]  # fmt: skip


def cards(command: str) -> Files:
    """Cards and pointers; what a JSON parser, or a reader that trusts it, might choke on."""
    texts = {
        "nesting": "[" * 100_000, "nested objects": '{"a":' * 100_000, "list": "[]", "null": "null",
        "number": "1e999", "endless digits": "9" * 100_000, "NaN": '{"checkpoint": NaN}',
        "no object": '"latest"', "twice": '{"checkpoint": "a", "checkpoint": "../x"}',
        "surrogate": '{"checkpoint": "\\ud800"}',
        "command": json.dumps({"checkpoint": f"$({command})"}),
        "other files": json.dumps({"sha256": {"../model.safetensors": "0", "/etc/passwd": "0"}}),
        "digest of another type": json.dumps({"sha256": {"model.safetensors": ["a"]}}),
        "empty": "", "NUL": "\0", "comment": "// {}", "pickle": "cos\nsystem\n(S'id'\ntR.",
    }  # fmt: skip
    return [(name, text.encode()) for name, text in texts.items()] + [
        ("UTF-16", '{"checkpoint": "a"}'.encode("utf-16")), ("Latin-1", b'{"\xe9": 1}'),
    ]  # fmt: skip
