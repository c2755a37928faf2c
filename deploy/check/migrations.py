"""Refuses migrations that the version before them cannot live with, or that hold up the service.

During a release the old version runs on the new schema. So a release *expands* (adds what the old version does not
notice), a later one *moves* (fills it, in the service, in small batches), and only then one *contracts* (removes what no
running version uses). A statement that only a contraction may have needs a line in its migration:

    -- contract: <since which version nobody uses it>

and one that is known to be harmless here:

    -- harmless <rule>: <why>

Migrations that were released are frozen (deploy/released/migrations.sha256), and not judged again.

    migrations.py <root of the tree>
"""

import hashlib
import re
import sys
from pathlib import Path

SERVICES = ("order-service", "notify-service")

# What only a contraction may do: (rule, pattern).
CONTRACTIONS = [
    ("drop", r"^(DROP\s+(TABLE|VIEW|FUNCTION|TYPE|SCHEMA)|ALTER\s+TABLE\b.*\bDROP\s+(?!CONSTRAINT|DEFAULT|NOT\s+NULL))"),
    ("rename", r"^ALTER\b.*\bRENAME\b"),
    ("type", r"^ALTER\s+TABLE\b.*\bALTER\s+(COLUMN\s+)?\w+\s+(SET\s+DATA\s+)?TYPE\b"),
    ("set-not-null", r"^ALTER\s+TABLE\b.*\bSET\s+NOT\s+NULL\b"),
    ("drop-default", r"^ALTER\s+TABLE\b.*\bDROP\s+DEFAULT\b"),
]
# What holds up everybody else, or fails with rows of the old version.
HARMS = [
    ("not-null-without-default", r"^ALTER\s+TABLE\b.*\bADD\s+(COLUMN\s+)?(?!CONSTRAINT)\w+\s[^,]*\bNOT\s+NULL\b(?![^,]*\bDEFAULT\b)(?<!DEFAULT)"),
    ("volatile-default", r"^ALTER\s+TABLE\b.*\bDEFAULT\s+(gen_random_uuid|random|clock_timestamp|nextval)\s*\("),
    ("constraint-checks-all-rows", r"^ALTER\s+TABLE\b.*\bADD\s+(CONSTRAINT\s+\w+\s+)?(CHECK|FOREIGN\s+KEY)\b(?!.*\bNOT\s+VALID\b)"),
    ("constraint-locks", r"^ALTER\s+TABLE\b.*\bADD\s+(CONSTRAINT\s+\w+\s+)?(UNIQUE|PRIMARY\s+KEY|EXCLUDE)\b(?!.*\bUSING\s+INDEX\b)"),
    ("index-locks", r"^CREATE\s+(UNIQUE\s+)?INDEX\b(?!\s+CONCURRENTLY)"),
    ("moves-rows", r"^(UPDATE|DELETE|INSERT\s+INTO\b.*\bSELECT)\b"),
    ("locks", r"^(LOCK\s+TABLE|VACUUM\s+FULL|CLUSTER|TRUNCATE|REINDEX\b(?!.*\bCONCURRENTLY\b))"),
]


def statements(sql):
    """The statements without comments, each on one line; text in quotes is taken out."""
    sql = re.sub(r"--[^\n]*", " ", sql)
    sql = re.sub(r"/\*.*?\*/", " ", sql, flags=re.S)
    sql = re.sub(r"\$(\w*)\$.*?\$\1\$", "''", sql, flags=re.S)
    sql = re.sub(r"'(?:[^']|'')*'", "''", sql)
    return [" ".join(statement.split()) for statement in sql.split(";") if statement.strip()]


def table_of(statement):
    """The table that a statement changes, as far as it is one of the kinds that are judged."""
    found = re.match(
        r"(?:CREATE TABLE(?: IF NOT EXISTS)?|ALTER TABLE(?: IF EXISTS)?(?: ONLY)?|UPDATE(?: ONLY)?|DELETE FROM|INSERT INTO"
        r"|CREATE (?:UNIQUE )?INDEX.*? ON(?: ONLY)?) (\w+)",
        statement,
        flags=re.I,
    )
    return found.group(1).lower() if found else None


def judge(sql, in_transaction=True):
    """(rule, statement) of everything that is refused in one up.sql."""
    contracts = re.search(r"^--[ \t]*contract:[ \t]*\S", sql, flags=re.M)
    harmless = set(re.findall(r"^--[ \t]*harmless ([\w-]+):[ \t]*\S", sql, flags=re.M))
    made_here = set()
    for statement in statements(sql):
        table = table_of(statement)
        if re.match(r"CREATE TABLE", statement, flags=re.I):
            made_here.add(table)
        if in_transaction and re.search(r"\bINDEX CONCURRENTLY\b", statement, flags=re.I):
            yield "concurrently-in-transaction", statement
        for rule, pattern in CONTRACTIONS:
            if not contracts and rule not in harmless and re.search(pattern, statement, flags=re.I):
                yield rule, statement
        for rule, pattern in HARMS:
            # Nobody else knows a table that was made in the same migration, and it has few rows.
            if table in made_here or rule in harmless:
                continue
            if re.search(pattern, statement, flags=re.I):
                yield rule, statement


def released(root):
    """The released files with their hashes."""
    lines = (root / "deploy/released/migrations.sha256").read_text().splitlines()
    return {path: digest for digest, path in (line.split(maxsplit=1) for line in lines)}


def check(root):
    """Everything that is wrong, as lines."""
    frozen = released(root)
    for path, digest in frozen.items():
        file = root / path
        if not file.exists() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            yield f"{path}: was released, so it is not changed any more; add a migration"
    for service in SERVICES:
        newest_frozen = max((path.split("/")[2] for path in frozen if path.startswith(service + "/")), default="")
        for folder in sorted((root / service / "migrations").iterdir()):
            name = f"{service}/migrations/{folder.name}/up.sql"
            if name in frozen:
                continue
            if folder.name < newest_frozen:
                yield f"{name}: older than {newest_frozen}, which was released: databases would have it out of order"
            for file in ("up.sql", "down.sql"):
                if not (folder / file).exists():
                    yield f"{service}/migrations/{folder.name}: has no {file}"
            metadata = folder / "metadata.toml"
            in_transaction = "run_in_transaction = false" not in (metadata.read_text() if metadata.exists() else "")
            for rule, statement in judge((folder / "up.sql").read_text(), in_transaction):
                yield f"{name}: {rule}: {statement[:120]}"


if __name__ == "__main__":
    FOUND = list(check(Path(sys.argv[1])))
    print("\n".join(FOUND))
    sys.exit(1 if FOUND else 0)
