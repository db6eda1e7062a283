-- Which schema this is, and the oldest one whose code may still work with it: replicas are replaced one by one.
CREATE TABLE mcp_pools_schema (version integer NOT NULL, oldest integer NOT NULL);
INSERT INTO mcp_pools_schema VALUES (0, 0);

-- Says which store this is: cursors of another one are refused.
CREATE TABLE identity (id text NOT NULL);
INSERT INTO identity VALUES (replace(gen_random_uuid()::text, '-', ''));

-- One row an owner that may write, gone when it closes or another takes over. Its number is the epoch that tasks
-- carry. `home` tells the directory whose lock it holds; `until`, when its lease runs out.
CREATE TABLE owners (
    epoch bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    home text NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    until timestamptz NOT NULL
);

-- Large values lie apart in any case (TOAST), and are not written again with each change of their task.
CREATE TABLE tasks (
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task_id text NOT NULL UNIQUE,
    task_type text NOT NULL,
    caller text NOT NULL,
    created_at float8 NOT NULL,
    cwd text NOT NULL,
    roots text NOT NULL,
    timeout float8 NOT NULL,
    priority bigint NOT NULL,
    max_attempts bigint NOT NULL,
    depth bigint NOT NULL,
    strategy text NOT NULL,
    pinned boolean NOT NULL,
    selector text,
    affinity_key text,
    distribution_id text,
    idempotency_key text,
    request_hash text,
    cancel_requested_at float8,
    trace text,
    part bigint,
    items bigint,
    status text NOT NULL,
    pool text,
    pool_type text,
    worker text,
    attempt bigint NOT NULL,
    launch bigint NOT NULL,
    seq bigint NOT NULL,
    epoch bigint NOT NULL,
    not_before float8,
    started_at float8,
    finished_at float8,
    output_tail text,
    progress bytea,
    error bytea,
    payload bytea NOT NULL,
    result bytea
);
CREATE INDEX tasks_open ON tasks (task_id) WHERE finished_at IS NULL;
CREATE INDEX tasks_done ON tasks (pool, finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX tasks_created ON tasks USING brin (created_at);
CREATE INDEX tasks_parts ON tasks (distribution_id, part) WHERE part IS NOT NULL;
CREATE UNIQUE INDEX tasks_key ON tasks (caller, idempotency_key) WHERE idempotency_key IS NOT NULL;

-- A distribution's parts are tasks; what became of its items is read from those.
CREATE TABLE distributions (
    distribution_id text PRIMARY KEY,
    task_type text NOT NULL,
    caller text NOT NULL,
    created_at float8 NOT NULL,
    strategy text NOT NULL,
    reduce text NOT NULL,
    on_error text NOT NULL,
    total bigint NOT NULL,
    cwd text NOT NULL,
    idempotency_key text,
    request_hash text,
    trace text,
    cancel_requested_at float8,
    status text NOT NULL,
    finished_at float8,
    error bytea,
    reduced bytea
);
CREATE UNIQUE INDEX distributions_key ON distributions (caller, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX distributions_open ON distributions (distribution_id) WHERE finished_at IS NULL;

CREATE TABLE pools (
    name text PRIMARY KEY,
    pool_id text NOT NULL,
    spec text NOT NULL,
    status text NOT NULL,
    fixed_workers bigint,
    configured boolean NOT NULL,
    created_at float8 NOT NULL
);

CREATE TABLE affinities (key text PRIMARY KEY, pool text NOT NULL);

-- Cursors are given out under a lock that is held until the commit: see `postgres_rows.EVENT`.
-- `data` is JSON, but as text: it may hold what `jsonb` does not (`\u0000`).
CREATE TABLE events (
    cursor bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at float8 NOT NULL,
    kind text NOT NULL,
    pool text,
    task_id text,
    distribution_id text,
    data text NOT NULL
);

-- One row a task that is indexed; `ended`: as it was when it had ended, so it changes no more.
CREATE TABLE search (
    n bigint PRIMARY KEY REFERENCES tasks ON DELETE CASCADE,
    ended boolean NOT NULL,
    words tsvector NOT NULL
);
CREATE INDEX search_words ON search USING gin (words);
