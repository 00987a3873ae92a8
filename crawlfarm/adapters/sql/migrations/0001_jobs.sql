-- Jobs, who asked for them, and what they found.
--
-- The types are words that SQLite and PostgreSQL both take. SQLite gives a BYTEA
-- column no text or number affinity that would touch a blob.

-- Counters that must never go back, whatever rows are dropped.
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO meta (name, value) VALUES ('token', 0);
INSERT INTO meta (name, value) VALUES ('commit', 0);

CREATE TABLE jobs (
    job TEXT PRIMARY KEY,
    flight TEXT NOT NULL,
    spec TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'cancelled', 'failed')),
    token BIGINT NOT NULL,
    attempt INTEGER NOT NULL CHECK (attempt >= 0),
    master TEXT NOT NULL,
    cancel TEXT NOT NULL,
    progress TEXT NOT NULL,
    receipt TEXT,
    error_code TEXT NOT NULL,
    error_message TEXT NOT NULL,
    created_at DOUBLE PRECISION NOT NULL,
    ended_at DOUBLE PRECISION,
    -- A job has an end exactly when its state is one, and a holder exactly when it runs.
    CHECK ((ended_at IS NULL) = (state IN ('queued', 'running'))),
    CHECK (state <> 'running' OR (master <> '' AND token > 0)),
    CHECK (state <> 'queued' OR master = '')
);

-- Single flight: one running job a question.
CREATE UNIQUE INDEX jobs_flight ON jobs (flight) WHERE ended_at IS NULL AND cancel = '';
CREATE INDEX jobs_ended ON jobs (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE submissions (
    client TEXT NOT NULL,
    id TEXT NOT NULL,
    job TEXT NOT NULL REFERENCES jobs (job) ON DELETE CASCADE,
    body TEXT NOT NULL,
    detach BOOLEAN NOT NULL,
    withdrawn BOOLEAN NOT NULL,
    PRIMARY KEY (client, id)
);
CREATE INDEX submissions_job ON submissions (job);

CREATE TABLE results (
    job TEXT PRIMARY KEY,
    token BIGINT NOT NULL,
    data BYTEA NOT NULL,
    expires_at DOUBLE PRECISION NOT NULL
);
CREATE INDEX results_expiry ON results (expires_at);
