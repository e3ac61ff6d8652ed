-- Rows of the store, by how they change; see tables.rs.
CREATE TABLE record (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE queue (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE seen (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE feed (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE fan (key bytea PRIMARY KEY, value bytea NOT NULL);

-- The last commits, with the counters after each.
CREATE TABLE commit (seq bigint PRIMARY KEY, id bytea NOT NULL, meta bytea NOT NULL);
-- What each of them tells other replicas.
CREATE TABLE told (seq bigint PRIMARY KEY, keys bytea[] NOT NULL, signals text[] NOT NULL);

-- Times are those of the database.
CREATE TABLE replica (
    id text COLLATE "C" PRIMARY KEY,
    name text NOT NULL,
    version text NOT NULL,
    seen_at timestamptz NOT NULL,
    status text
) WITH (fillfactor = 50);
CREATE TABLE lease (
    name text COLLATE "C" PRIMARY KEY,
    holder text COLLATE "C" NOT NULL,
    epoch bigint NOT NULL,
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 50);
