"""The linter of migrations: each rule refuses its example, and what is fine passes."""

import hashlib
import tempfile
import unittest
from pathlib import Path

from migrations import CONTRACTIONS, HARMS, check, judge

ROOT = Path(__file__).resolve().parents[2]

REFUSED = {
    "drop": ["ALTER TABLE orders DROP COLUMN reason", "ALTER TABLE orders DROP reason", "DROP TABLE outbox"],
    "rename": ["ALTER TABLE orders RENAME TO purchases", "alter table orders rename column reason to why"],
    "type": ["ALTER TABLE orders ALTER COLUMN version TYPE integer"],
    "set-not-null": ["ALTER TABLE orders ALTER reason SET NOT NULL"],
    "drop-default": ["ALTER TABLE items ALTER taken DROP DEFAULT"],
    "not-null-without-default": ["ALTER TABLE orders ADD COLUMN note text NOT NULL", "ALTER TABLE orders ADD note text NOT NULL"],
    "volatile-default": ["ALTER TABLE orders ADD COLUMN nonce uuid NOT NULL DEFAULT gen_random_uuid()"],
    "constraint-checks-all-rows": [
        "ALTER TABLE orders ADD CHECK (quantity > 0)",
        "ALTER TABLE orders ADD CONSTRAINT o FOREIGN KEY (sale_id) REFERENCES sales (id)",
    ],
    "constraint-locks": ["ALTER TABLE orders ADD CONSTRAINT o UNIQUE (user_id)"],
    "index-locks": ["CREATE INDEX o ON orders (status)", "CREATE UNIQUE INDEX o ON orders (status)"],
    "moves-rows": ["UPDATE orders SET reason = ''", "INSERT INTO archive SELECT * FROM orders"],
    "locks": ["LOCK TABLE orders", "TRUNCATE outbox"],
}
FINE = [
    "ALTER TABLE orders ADD COLUMN note text",
    "ALTER TABLE orders ADD COLUMN note text NOT NULL DEFAULT ''",
    "ALTER TABLE sales ADD COLUMN a boolean NOT NULL DEFAULT false, ADD COLUMN b boolean NOT NULL DEFAULT false",
    "CREATE TABLE notes (id uuid PRIMARY KEY, text text NOT NULL); CREATE INDEX notes_by_text ON notes (text)",
    "ALTER TABLE orders ADD CONSTRAINT o CHECK (quantity > 0) NOT VALID",
    "ALTER TABLE orders VALIDATE CONSTRAINT o",
    "INSERT INTO broker_generation DEFAULT VALUES",
    "-- DROP TABLE orders\nSELECT 'DROP TABLE orders'",
]


class Rules(unittest.TestCase):
    def test_each_rule_refuses_its_examples(self):
        self.assertEqual(set(REFUSED), {rule for rule, _ in CONTRACTIONS + HARMS})
        for rule, examples in REFUSED.items():
            for sql in examples:
                with self.subTest(sql=sql):
                    self.assertIn(rule, {found for found, _ in judge(sql)})

    def test_what_expands_passes(self):
        for sql in FINE:
            with self.subTest(sql=sql):
                self.assertEqual(list(judge(sql)), [])

    def test_a_contraction_has_to_say_so_and_may_not_harm_none_the_less(self):
        self.assertEqual(list(judge("-- contract: nobody since 1.4\nALTER TABLE orders DROP COLUMN reason")), [])
        self.assertNotEqual(list(judge("-- contract:\nALTER TABLE orders DROP COLUMN reason")), [])
        self.assertNotEqual(list(judge("-- contract: nobody since 1.4\nTRUNCATE orders")), [])

    def test_what_is_harmless_is_named_with_its_reason(self):
        self.assertEqual(list(judge("-- harmless index-locks: a table of one row\nCREATE INDEX o ON one (a)")), [])
        self.assertNotEqual(list(judge("-- harmless index-locks:\nCREATE INDEX o ON one (a)")), [])

    def test_concurrently_needs_to_be_outside_of_a_transaction(self):
        sql = "CREATE INDEX CONCURRENTLY o ON orders (status)"
        self.assertEqual([rule for rule, _ in judge(sql)], ["concurrently-in-transaction"])
        self.assertEqual(list(judge(sql, in_transaction=False)), [])


class Tree(unittest.TestCase):
    def test_the_migrations_of_this_tree_are_fine(self):
        self.assertEqual(list(check(ROOT)), [])

    def test_a_released_migration_that_was_changed_is_noticed_and_so_is_one_that_comes_before_it(self):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            for service in ("order-service", "notify-service"):
                (root / service / "migrations").mkdir(parents=True)
            for name, sql in (("2-b", "CREATE TABLE b ()"), ("1-a", "CREATE TABLE a ()")):
                (root / "order-service/migrations" / name).mkdir()
                for file in ("up.sql", "down.sql"):
                    (root / "order-service/migrations" / name / file).write_text(sql)
            digest = hashlib.sha256(b"CREATE TABLE other ()").hexdigest()
            (root / "deploy/released").mkdir(parents=True)
            (root / "deploy/released/migrations.sha256").write_text(f"{digest}  order-service/migrations/2-b/up.sql\n")
            found = list(check(root))
            self.assertEqual(len(found), 2, found)
            self.assertIn("was released", found[0])
            self.assertIn("out of order", found[1])


if __name__ == "__main__":
    unittest.main()
