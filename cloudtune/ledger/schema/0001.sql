-- Launches and their events are only ever added; the triggers hold every writer to that.
CREATE TABLE launches (
  id           TEXT PRIMARY KEY,
  provider     TEXT NOT NULL,
  recipe       TEXT NOT NULL,
  created      TEXT NOT NULL,
  usd_per_hour REAL,              -- price of one machine at the time of launch; null when unknown
  nodes        INTEGER NOT NULL DEFAULT 1,
  plan         TEXT NOT NULL,     -- canonical JSON; empty for a job that was found, not launched, by this ledger
  request      TEXT NOT NULL
) STRICT;

CREATE TABLE events (
  seq       INTEGER PRIMARY KEY AUTOINCREMENT,
  launch_id TEXT NOT NULL REFERENCES launches (id),
  kind      TEXT NOT NULL,
  at        TEXT NOT NULL,
  body      TEXT NOT NULL,
  dedupe    TEXT NOT NULL UNIQUE
) STRICT;

CREATE INDEX events_of_launch ON events (launch_id, seq);

-- The fold of each launch's events, kept in the same transaction. Derived: it may be emptied and rebuilt.
CREATE TABLE heads (
  launch_id TEXT PRIMARY KEY REFERENCES launches (id),
  seq       INTEGER NOT NULL,   -- of its last event
  born      INTEGER NOT NULL,   -- seq of its first event: the order in which launches are listed
  is_open   INTEGER NOT NULL,
  provider  TEXT NOT NULL,
  recipe    TEXT NOT NULL,
  reading   TEXT NOT NULL DEFAULT '',
  view      TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX heads_open ON heads (is_open, born);
CREATE INDEX heads_born ON heads (born);
CREATE INDEX heads_recipe ON heads (recipe, born);

CREATE TRIGGER events_stay BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER events_remain BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER launches_stay BEFORE UPDATE ON launches BEGIN SELECT RAISE(ABORT, 'launches are append-only'); END;
CREATE TRIGGER launches_remain BEFORE DELETE ON launches BEGIN SELECT RAISE(ABORT, 'launches are append-only'); END;
