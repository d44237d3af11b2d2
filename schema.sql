-- The ledger, schema version 2: one SQLite file (3.38 or newer), opened in WAL mode.
--
-- The log is event, sample and log: appended to, never updated, never deleted from; triggers hold that. Only
-- what a tombstone (an event `pruned`) covers may go. Everything else (call, histogram) is derived from the log and can be made again from it.
-- All times are integer nanoseconds since 1970, UTC; columns carry their unit in their name.
-- A value that was not measured is NULL, never 0.

-- "call" in ASCII: tells a ledger from any other SQLite file.
PRAGMA application_id = 0x63616c6c;
PRAGMA user_version = 2;

CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

-- ---------------------------------------------------------------------------------------------
-- The law: the same states, kinds and rules as machine/table.py; a test compares them.

CREATE TABLE state (code INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, terminal INTEGER NOT NULL) STRICT;
INSERT INTO state VALUES
  (0, 'preparing', 0),
  (1, 'prepared', 0),
  (2, 'running', 0),
  (3, 'health-wait', 0),
  (4, 'paused', 0),
  (5, 'success', 1),
  (6, 'error', 1),
  (7, 'timeout', 1),
  (8, 'killed', 1),
  (9, 'cancelled', 1);

CREATE TABLE kind (code INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
INSERT INTO kind VALUES
  (0, 'submitted'), (1, 'prepared'), (2, 'started'), (3, 'health-awaited'), (4, 'healthy'), (5, 'paused'),
  (6, 'resumed'), (7, 'succeeded'), (8, 'failed'), (9, 'timed-out'), (10, 'killed'), (11, 'cancelled'),
  (12, 'pulled'), (13, 'signalled'), (14, 'cancel-requested'), (15, 'kill-requested'), (16, 'health-changed'), (17, 'oom-seen'),
  (18, 'gap'), (19, 'output-cut'), (20, 'cleaned'), (21, 'adopted'), (22, 'pruned'),
  (23, 'admitted'), (24, 'pull-progressed'), (25, 'pause-requested'), (26, 'resume-requested'),
  (27, 'signal-requested'), (28, 'executed'), (29, 'listed');

-- kind may happen in source (-1: no call yet) and leads to target; a note leads to where it was.
CREATE TABLE rule (
  kind INTEGER NOT NULL, source INTEGER NOT NULL, target INTEGER NOT NULL, PRIMARY KEY (kind, source)
) STRICT, WITHOUT ROWID;
INSERT INTO rule VALUES
  (0, -1, 0),
  (1, 0, 1),
  (2, 1, 2),
  (3, 2, 3),
  (4, 3, 2),
  (5, 2, 4), (5, 3, 4),
  (6, 4, 2),
  (7, 2, 5), (7, 3, 5),
  (8, 0, 6), (8, 1, 6), (8, 2, 6), (8, 3, 6), (8, 4, 6),
  (9, 0, 7), (9, 1, 7), (9, 2, 7), (9, 3, 7), (9, 4, 7),
  (10, 0, 8), (10, 1, 8), (10, 2, 8), (10, 3, 8), (10, 4, 8),
  (11, 0, 9), (11, 1, 9), (11, 2, 9), (11, 3, 9), (11, 4, 9),
  (12, 0, 0),
  (13, 2, 2), (13, 3, 3), (13, 4, 4),
  (14, 0, 0), (14, 1, 1), (14, 2, 2), (14, 3, 3), (14, 4, 4),
  (15, 0, 0), (15, 1, 1), (15, 2, 2), (15, 3, 3), (15, 4, 4),
  (16, 2, 2), (16, 3, 3), (16, 4, 4),
  (17, 2, 2), (17, 3, 3), (17, 4, 4),
  (18, 0, 0), (18, 1, 1), (18, 2, 2), (18, 3, 3), (18, 4, 4), (18, 5, 5), (18, 6, 6), (18, 7, 7), (18, 8, 8), (18, 9, 9),
  (19, 0, 0), (19, 1, 1), (19, 2, 2), (19, 3, 3), (19, 4, 4), (19, 5, 5), (19, 6, 6), (19, 7, 7), (19, 8, 8), (19, 9, 9),
  (20, 5, 5), (20, 6, 6), (20, 7, 7), (20, 8, 8), (20, 9, 9),
  (21, 0, 0), (21, 1, 1), (21, 2, 2), (21, 3, 3), (21, 4, 4), (21, 5, 5), (21, 6, 6), (21, 7, 7), (21, 8, 8), (21, 9, 9),
  (22, 5, 5), (22, 6, 6), (22, 7, 7), (22, 8, 8), (22, 9, 9),
  (23, 0, 0),
  (24, 0, 0),
  (25, 0, 0), (25, 1, 1), (25, 2, 2), (25, 3, 3), (25, 4, 4),
  (26, 0, 0), (26, 1, 1), (26, 2, 2), (26, 3, 3), (26, 4, 4),
  (27, 0, 0), (27, 1, 1), (27, 2, 2), (27, 3, 3), (27, 4, 4),
  (28, 2, 2), (28, 3, 3), (28, 4, 4), (28, 5, 5), (28, 6, 6), (28, 7, 7), (28, 8, 8), (28, 9, 9),
  (29, 2, 2), (29, 3, 3), (29, 4, 4);

-- counter = 1: cumulative; take differences, never means.
CREATE TABLE metric (
  code INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, unit TEXT NOT NULL, counter INTEGER NOT NULL
) STRICT;
INSERT INTO metric VALUES
  (0, 'cpu_total_pct', 'percent of one core', 0),
  (1, 'cpu_user_pct', 'percent of one core', 0),
  (2, 'cpu_kernel_pct', 'percent of one core', 0),
  (3, 'cpu_total_ns', 'ns', 1),
  (4, 'cpu_user_ns', 'ns', 1),
  (5, 'cpu_kernel_ns', 'ns', 1),
  (6, 'throttled_ns', 'ns', 1),
  (7, 'mem_usage_bytes', 'bytes', 0),
  (8, 'mem_rss_bytes', 'bytes', 0),
  (9, 'mem_cache_bytes', 'bytes', 0),
  (10, 'mem_limit_bytes', 'bytes', 0),
  (11, 'mem_peak_bytes', 'bytes', 0),
  (12, 'net_rx_bytes', 'bytes', 1),
  (13, 'net_tx_bytes', 'bytes', 1),
  (14, 'disk_read_bytes', 'bytes', 1),
  (15, 'disk_write_bytes', 'bytes', 1),
  (16, 'pids', 'processes and threads', 0);

-- ---------------------------------------------------------------------------------------------
-- The log.

-- seq counts from 1 in each call; id is the order of the whole ledger. state is the state after the event.
-- elapsed_ns is the time since the call's last change of state by one process's monotonic clock (NULL when
-- another process saw it). samples and chunks count the rows of sample and log that stood before this event:
-- its digest covers them too, so that nothing in the log can change unseen.
CREATE TABLE event (
  id         INTEGER PRIMARY KEY,
  call_id    INTEGER NOT NULL,
  seq        INTEGER NOT NULL CHECK (seq >= 1),
  at         INTEGER NOT NULL,
  kind       INTEGER NOT NULL,
  state      INTEGER NOT NULL,
  elapsed_ns INTEGER CHECK (elapsed_ns >= 0),
  data       TEXT    NOT NULL,
  samples    INTEGER NOT NULL CHECK (samples >= 0),
  chunks     INTEGER NOT NULL CHECK (chunks >= 0),
  digest     BLOB    NOT NULL CHECK (length(digest) = 32),
  UNIQUE (call_id, seq)
) STRICT;

CREATE TABLE sample (
  call_id          INTEGER NOT NULL,
  seq              INTEGER NOT NULL CHECK (seq >= 1),
  at               INTEGER NOT NULL,
  cpu_total_pct    REAL,
  cpu_user_pct     REAL,
  cpu_kernel_pct   REAL,
  cpu_total_ns     INTEGER,
  cpu_user_ns      INTEGER,
  cpu_kernel_ns    INTEGER,
  throttled_ns     INTEGER,
  mem_usage_bytes  INTEGER,
  mem_rss_bytes    INTEGER,
  mem_cache_bytes  INTEGER,
  mem_limit_bytes  INTEGER,
  mem_peak_bytes   INTEGER,
  net_rx_bytes     INTEGER,
  net_tx_bytes     INTEGER,
  disk_read_bytes  INTEGER,
  disk_write_bytes INTEGER,
  pids             INTEGER,
  PRIMARY KEY (call_id, seq)
) STRICT, WITHOUT ROWID;

-- Captured output. stream: 1 stdout, 2 stderr. offset_bytes: where the chunk begins in its stream, secrets
-- already replaced; a chunk that begins after the end of the one before follows a cut (event output-cut).
CREATE TABLE log (
  call_id      INTEGER NOT NULL,
  seq          INTEGER NOT NULL CHECK (seq >= 1),
  at           INTEGER NOT NULL,
  stream       INTEGER NOT NULL CHECK (stream IN (1, 2)),
  offset_bytes INTEGER NOT NULL CHECK (offset_bytes >= 0),
  data         BLOB    NOT NULL,
  UNIQUE (call_id, seq)
) STRICT;

-- An event continues its call: the next seq, by a rule of the table, from the state the last event left.
-- This also stops INSERT OR REPLACE, which deletes without firing delete triggers.
CREATE TRIGGER event_continues BEFORE INSERT ON event
  WHEN EXISTS (SELECT 1 FROM event WHERE id = NEW.id) OR NOT EXISTS (
    SELECT 1 FROM rule
    WHERE rule.kind = NEW.kind AND rule.target = NEW.state
      AND (rule.source, NEW.seq - 1) = (
        SELECT coalesce(max(state), -1), coalesce(max(seq), 0)
        FROM (SELECT state, seq FROM event WHERE call_id = NEW.call_id ORDER BY seq DESC LIMIT 1)))
  BEGIN SELECT RAISE(ABORT, 'event does not continue its call'); END;
-- The tombstone comes first, in the same transaction; then what it covers may be emptied or deleted, and only that.
CREATE TRIGGER event_no_update BEFORE UPDATE ON event
  WHEN NOT (
    NEW.data = '{}' AND OLD.kind <> 22
    AND (NEW.id, NEW.call_id, NEW.seq, NEW.at, NEW.kind, NEW.state, NEW.samples, NEW.chunks, NEW.digest)
      = (OLD.id, OLD.call_id, OLD.seq, OLD.at, OLD.kind, OLD.state, OLD.samples, OLD.chunks, OLD.digest)
    AND NEW.elapsed_ns IS OLD.elapsed_ns
    AND EXISTS (SELECT 1 FROM event WHERE call_id = OLD.call_id AND seq > OLD.seq AND kind = 22
                AND data ->> '$.events' IS NOT NULL))
  BEGIN SELECT RAISE(ABORT, 'event is append-only'); END;
CREATE TRIGGER event_no_delete BEFORE DELETE ON event BEGIN SELECT RAISE(ABORT, 'event is append-only'); END;
CREATE TRIGGER sample_once BEFORE INSERT ON sample
  WHEN EXISTS (SELECT 1 FROM sample WHERE call_id = NEW.call_id AND seq = NEW.seq)
  BEGIN SELECT RAISE(ABORT, 'sample is append-only: this row exists'); END;
CREATE TRIGGER sample_no_update BEFORE UPDATE ON sample BEGIN SELECT RAISE(ABORT, 'sample is append-only'); END;
CREATE TRIGGER sample_no_delete BEFORE DELETE ON sample
  WHEN NOT EXISTS (SELECT 1 FROM event WHERE call_id = OLD.call_id AND kind = 22 AND samples >= OLD.seq
                   AND data -> '$.samples' IS NOT NULL)
  BEGIN SELECT RAISE(ABORT, 'sample is append-only'); END;
CREATE TRIGGER log_once BEFORE INSERT ON log
  WHEN EXISTS (SELECT 1 FROM log WHERE rowid = NEW.rowid OR (call_id = NEW.call_id AND seq = NEW.seq))
  BEGIN SELECT RAISE(ABORT, 'log is append-only: this row exists'); END;
CREATE TRIGGER log_no_update BEFORE UPDATE ON log BEGIN SELECT RAISE(ABORT, 'log is append-only'); END;
CREATE TRIGGER log_no_delete BEFORE DELETE ON log
  WHEN NOT EXISTS (SELECT 1 FROM event WHERE call_id = OLD.call_id AND kind = 22 AND chunks >= OLD.seq
                   AND data -> '$.output' IS NOT NULL)
  BEGIN SELECT RAISE(ABORT, 'log is append-only'); END;

-- ---------------------------------------------------------------------------------------------
-- Derived: one row a call, folded from its events.

CREATE TABLE call (
  id             INTEGER PRIMARY KEY,
  uid            TEXT    NOT NULL UNIQUE,
  name           TEXT,
  image          TEXT,
  image_id       TEXT,
  image_digest   TEXT,
  driver         TEXT    NOT NULL,
  container      TEXT,
  runner         TEXT    NOT NULL,
  state          TEXT    NOT NULL,
  reason         TEXT,
  message        TEXT,
  exit_code      INTEGER,
  signal         TEXT,
  oom            TEXT,
  never_ran      INTEGER NOT NULL DEFAULT 0,
  created_at     INTEGER NOT NULL,
  started_at     INTEGER,
  ended_at       INTEGER,
  entered_at     INTEGER NOT NULL,
  preparing_ns   INTEGER NOT NULL DEFAULT 0,
  prepared_ns    INTEGER NOT NULL DEFAULT 0,
  running_ns     INTEGER NOT NULL DEFAULT 0,
  health_wait_ns INTEGER NOT NULL DEFAULT 0,
  paused_ns      INTEGER NOT NULL DEFAULT 0,
  cpu_ns         INTEGER,
  mem_peak_bytes INTEGER,
  events         INTEGER NOT NULL,
  samples        INTEGER NOT NULL,
  chunks         INTEGER NOT NULL,
  gaps           INTEGER NOT NULL DEFAULT 0,
  cleaned        INTEGER NOT NULL DEFAULT 0,
  spec           TEXT    NOT NULL,
  evidence       TEXT,
  idempotency_key TEXT,
  recovered      INTEGER NOT NULL DEFAULT 0,
  pruned         TEXT
) STRICT;
CREATE INDEX call_created ON call (created_at);
CREATE INDEX call_name ON call (name, created_at) WHERE name IS NOT NULL;
CREATE INDEX call_open ON call (id) WHERE ended_at IS NULL;
CREATE INDEX call_unsettled ON call (runner) WHERE cleaned = 0;
CREATE UNIQUE INDEX call_key ON call (idempotency_key) WHERE idempotency_key IS NOT NULL;

-- At most 240 buckets a metric, only for calls with more samples than that; see the view histogram_point.
CREATE TABLE histogram (
  call_id INTEGER NOT NULL,
  metric  INTEGER NOT NULL,
  bucket  INTEGER NOT NULL,
  t_first INTEGER NOT NULL,
  t_last  INTEGER NOT NULL,
  count   INTEGER NOT NULL,
  min     REAL    NOT NULL,
  mean    REAL    NOT NULL,
  max     REAL    NOT NULL,
  last    REAL    NOT NULL,
  PRIMARY KEY (call_id, metric, bucket)
) STRICT, WITHOUT ROWID;

-- ---------------------------------------------------------------------------------------------
-- Neither log nor derived: who is at work. The process behind a runner, and when it last said that it lives
-- (ns, UTC). A pid alone proves nothing: it goes with boot, pid namespace and start time (clock ticks since boot).

CREATE TABLE lease (
  runner        TEXT    PRIMARY KEY,
  host          TEXT    NOT NULL,
  boot          TEXT    NOT NULL,
  pid           INTEGER NOT NULL,
  pid_started   INTEGER NOT NULL,
  pid_namespace INTEGER NOT NULL,
  beat_at       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- ---------------------------------------------------------------------------------------------
-- Views for people: names for codes, ISO 8601 times, seconds.

CREATE VIEW calls AS
SELECT id, uid, name, image, image_digest, driver, state, reason, exit_code, signal, oom, never_ran,
  strftime('%Y-%m-%dT%H:%M:%fZ', created_at / 1e9, 'unixepoch') AS created_at,
  strftime('%Y-%m-%dT%H:%M:%fZ', started_at / 1e9, 'unixepoch') AS started_at,
  strftime('%Y-%m-%dT%H:%M:%fZ', ended_at / 1e9, 'unixepoch') AS ended_at,
  (preparing_ns + prepared_ns + running_ns + health_wait_ns + paused_ns) / 1e9 AS total_seconds,
  running_ns / 1e9 AS running_seconds, cpu_ns / 1e9 AS cpu_seconds, mem_peak_bytes, samples, gaps, message, spec
FROM call;

CREATE VIEW events AS
SELECT event.id, event.call_id, call.uid, event.seq,
  strftime('%Y-%m-%dT%H:%M:%fZ', event.at / 1e9, 'unixepoch') AS at,
  (event.at - call.created_at) / 1e9 AS t_seconds, kind.name AS kind, state.name AS state, event.data
FROM event JOIN call ON call.id = event.call_id
  JOIN kind ON kind.code = event.kind JOIN state ON state.code = event.state;

CREATE VIEW samples AS
SELECT s.call_id, call.uid, s.seq,
  strftime('%Y-%m-%dT%H:%M:%fZ', s.at / 1e9, 'unixepoch') AS at,
  (s.at - call.created_at) / 1e9 AS t_seconds,
  s.cpu_total_pct, s.cpu_user_pct, s.cpu_kernel_pct, s.cpu_total_ns, s.cpu_user_ns, s.cpu_kernel_ns,
  s.throttled_ns, s.mem_usage_bytes, s.mem_rss_bytes, s.mem_cache_bytes, s.mem_limit_bytes,
  s.mem_peak_bytes, s.net_rx_bytes, s.net_tx_bytes, s.disk_read_bytes, s.disk_write_bytes, s.pids
FROM sample AS s JOIN call ON call.id = s.call_id;

CREATE VIEW logs AS
SELECT log.call_id, call.uid, log.seq,
  strftime('%Y-%m-%dT%H:%M:%fZ', log.at / 1e9, 'unixepoch') AS at,
  (log.at - call.created_at) / 1e9 AS t_seconds,
  CASE log.stream WHEN 1 THEN 'stdout' ELSE 'stderr' END AS stream, log.offset_bytes, log.data
FROM log JOIN call ON call.id = log.call_id;

-- The history of every ended call, per metric. Where a call has at most 240 samples each sample is a bucket.
CREATE VIEW histogram_point AS
SELECT h.call_id, h.bucket, metric.name AS metric, h.t_first, h.t_last, h.count, h.min, h.mean, h.max, h.last
FROM histogram AS h JOIN metric ON metric.code = h.metric
UNION ALL
SELECT call_id, bucket, metric, at, at, 1, value, value * 1.0, value, value FROM (
  SELECT s.call_id, s.seq - 1 AS bucket, metric.name AS metric, s.at, CASE metric.code
    WHEN 0 THEN s.cpu_total_pct
    WHEN 1 THEN s.cpu_user_pct
    WHEN 2 THEN s.cpu_kernel_pct
    WHEN 3 THEN s.cpu_total_ns
    WHEN 4 THEN s.cpu_user_ns
    WHEN 5 THEN s.cpu_kernel_ns
    WHEN 6 THEN s.throttled_ns
    WHEN 7 THEN s.mem_usage_bytes
    WHEN 8 THEN s.mem_rss_bytes
    WHEN 9 THEN s.mem_cache_bytes
    WHEN 10 THEN s.mem_limit_bytes
    WHEN 11 THEN s.mem_peak_bytes
    WHEN 12 THEN s.net_rx_bytes
    WHEN 13 THEN s.net_tx_bytes
    WHEN 14 THEN s.disk_read_bytes
    WHEN 15 THEN s.disk_write_bytes
    WHEN 16 THEN s.pids
    END AS value
  FROM sample AS s CROSS JOIN metric
  WHERE EXISTS (SELECT 1 FROM call WHERE call.id = s.call_id AND call.ended_at IS NOT NULL)
    AND NOT EXISTS (SELECT 1 FROM histogram WHERE histogram.call_id = s.call_id))
WHERE value IS NOT NULL;
