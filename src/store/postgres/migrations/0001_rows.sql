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

-- What people may read with SQL; see shown.rs. The shapes of the views are stable: columns are only added, at the end.
CREATE TABLE link_row (
    external_userid text COLLATE "C", app text COLLATE "C", corp_id text COLLATE "C",
    unionid text COLLATE "C" NOT NULL, pending_id text, link_id text NOT NULL, source text NOT NULL,
    linked_at_ms bigint NOT NULL, followers jsonb NOT NULL,
    PRIMARY KEY (external_userid, app, corp_id)
);
CREATE INDEX link_row_unionid ON link_row (unionid);
CREATE TABLE fan_row (
    unionid text COLLATE "C", app text COLLATE "C", state text NOT NULL, registered_at_ms bigint NOT NULL,
    pending_id text, minted_at_ms bigint, expires_at_ms bigint,
    PRIMARY KEY (unionid, app)
);
CREATE TABLE dealer_row (
    app text COLLATE "C", corp_id text COLLATE "C", name text NOT NULL, state text NOT NULL,
    listed_at_ms bigint NOT NULL, left_at_ms bigint,
    PRIMARY KEY (app, corp_id)
);
CREATE VIEW link AS
    SELECT app, unionid, external_userid, corp_id, pending_id, link_id, source,
           to_timestamp(linked_at_ms / 1000.0) AS linked_at, followers
    FROM link_row;
CREATE VIEW fan_state AS
    SELECT app, unionid,
           CASE WHEN expires_at_ms > extract(epoch FROM now()) * 1000 THEN 'minted' ELSE state END AS state,
           to_timestamp(registered_at_ms / 1000.0) AS registered_at, pending_id,
           to_timestamp(minted_at_ms / 1000.0) AS minted_at
    FROM fan_row;
CREATE VIEW dealer_state AS
    SELECT app, corp_id, name, state, to_timestamp(listed_at_ms / 1000.0) AS listed_at,
           to_timestamp(left_at_ms / 1000.0) AS left_at
    FROM dealer_row;
