#!/usr/bin/env python3
"""A program for the driver "exec": of each object it makes a file in a folder.

    hook.py FOLDER STATE

It remembers in STATE, a database, which change each object was last made true by, so that what comes
again is not done again: the place of the file is taken by whatever must not happen twice, a payment or
a message. docs/drivers.md specifies what it reads and answers. Python 3.8 or later; nothing else.
"""

import base64
import json
import os
import sqlite3
import sys


class Refused(Exception):
    """What an object is answered with."""


class Hook:
    def __init__(self, folder, state):
        os.makedirs(folder, exist_ok=True)
        self.folder = folder
        self.db = sqlite3.connect(state)
        # One row an object, with the id that is in force. It is not enough to remember which ids have
        # ever been seen: an object that goes back to what it was has the id again that it had then.
        self.db.execute("CREATE TABLE IF NOT EXISTS objects (key TEXT PRIMARY KEY, id TEXT NOT NULL)")

    def path(self, change):
        name = change["name"]
        if "/" in name or name.startswith("."):
            raise Refused("this program wants a name without a slash, and without a dot in front")
        return os.path.join(self.folder, name)

    def in_force(self, key):
        row = self.db.execute("SELECT id FROM objects WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def apply(self, change):
        path = self.path(change)
        if self.in_force(change["key"]) == change["id"] and not change.get("doubt"):
            return {"ok": True, "note": "again"}
        new = os.path.join(self.folder, ".new")
        with open(new, "wb") as f:
            f.write(value_of(change))
            f.flush()
            os.fsync(f.fileno())
        os.replace(new, path)
        self.db.execute("INSERT OR REPLACE INTO objects VALUES (?, ?)", (change["key"], change["id"]))
        return {"ok": True}

    def delete(self, change):
        try:
            os.remove(self.path(change))
        except FileNotFoundError:
            pass  # it went when this was asked before
        self.db.execute("DELETE FROM objects WHERE key = ?", (change["key"],))
        return {"ok": True}

    def check(self, change):
        path, value = self.path(change), value_of(change)
        if self.in_force(change["key"]) != change["id"]:
            return {"drift": "made by another change"}
        try:
            with open(path, "rb") as f:
                if value is not None and f.read() != value:
                    return {"drift": "other contents"}
        except FileNotFoundError:
            return {"drift": "missing"}
        return {"ok": True}

    def answer(self, change):
        """Returns the answer to a change. What goes wrong with one is no reason to leave out others."""
        ops = {"apply": self.apply, "delete": self.delete, "check": self.check}
        try:
            if change["op"] not in ops:
                raise Refused("this program knows nothing of " + change["op"])
            said = ops[change["op"]](change)
        except (Refused, OSError) as e:
            said = {"error": str(e)}
        return {"id": change["id"], **said}

    def sync(self):
        """Returns once what was done outlives a power cut: names of files, and the database."""
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self.db.commit()


def value_of(change):
    """Returns the bytes that shall be; None for a check without contents."""
    if "value_base64" in change:
        return base64.b64decode(change["value_base64"])
    return change["value"].encode() if "value" in change else None


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: hook.py FOLDER STATE")
    hook = Hook(sys.argv[1], sys.argv[2])
    answers = []
    for line in sys.stdin.buffer:
        if not line.endswith(b"\n"):
            break  # not whole: the agent died while it wrote
        answers.append(hook.answer(json.loads(line)))
    hook.sync()  # before anything is answered
    for answer in answers:
        print(json.dumps(answer))


if __name__ == "__main__":
    main()
