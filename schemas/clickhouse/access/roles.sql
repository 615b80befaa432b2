-- Who may do what, on a ClickHouse server: `roommeter migrate --access` applies it, as often as one likes. The engine
-- in process has no users. Three roles; give each person or program a user of its own with one of them.
--
-- `roommeter_writer`: worker, emitter, gateway, limiter and `migrate`. No access management, no deletion.
CREATE ROLE IF NOT EXISTS roommeter_writer ${on_cluster};
GRANT ${on_cluster} SELECT, INSERT, CREATE TABLE, CREATE VIEW, DROP VIEW, ALTER TABLE, ALTER VIEW ON ${database}.* TO roommeter_writer;
REVOKE ${on_cluster} ALTER DELETE, ALTER UPDATE ON ${database}.* FROM roommeter_writer;

-- `roommeter_analyst`: reads every project, writes nothing.
CREATE ROLE IF NOT EXISTS roommeter_analyst ${on_cluster};
GRANT ${on_cluster} SELECT ON ${database}.* TO roommeter_analyst;

-- `roommeter_tenant`: reads the one project whose name is the name of the user. A name cannot be changed by a query, as
-- a setting could, and needs no table that somebody would have to keep. What it may read is granted table by table,
-- below; a table that comes later is closed to it until `migrate --access` has given it a policy.
CREATE ROLE IF NOT EXISTS roommeter_tenant ${on_cluster};

-- Reading only (2: clients may change settings, within these bounds; 1 would refuse those that ordinary clients send).
CREATE SETTINGS PROFILE OR REPLACE roommeter_analyst ${on_cluster} SETTINGS
    readonly = 2, max_memory_usage = 4000000000 MAX 8000000000, max_execution_time = 60 MIN 1 MAX 600,
    max_concurrent_queries_for_user = 16 MIN 1 MAX 16
    TO roommeter_analyst;
CREATE SETTINGS PROFILE OR REPLACE roommeter_tenant ${on_cluster} SETTINGS
    readonly = 2, max_memory_usage = 1000000000 MIN 1 MAX 1000000000, max_execution_time = 30 MIN 1 MAX 30,
    max_concurrent_queries_for_user = 4 MIN 1 MAX 4
    TO roommeter_tenant;
CREATE QUOTA OR REPLACE roommeter_analyst ${on_cluster} KEYED BY user_name
    FOR INTERVAL 1 hour MAX queries = 20000, execution_time = 7200 TO roommeter_analyst;
CREATE QUOTA OR REPLACE roommeter_tenant ${on_cluster} KEYED BY user_name
    FOR INTERVAL 1 hour MAX queries = 3000, execution_time = 600 TO roommeter_tenant;
