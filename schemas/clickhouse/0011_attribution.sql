-- Whose discrete usage it is: the increments of every usage event by hour (0009, R14), with what it is ascribed to. Each
-- event rounds up on its own before anything is summed (R1), so by whatever the increments are grouped, they add up to
-- the usage of the hour. Of what an event said in several reports the greatest counts, whatever their order (R10).
CREATE OR REPLACE VIEW ${database}.attributed_usage ${on_cluster} AS
SELECT project, meter, hour, source, id, begun AS increments, model, endpoint, team, key, status, latency_ms
FROM ${database}.discrete_usage(
    as_of = {as_of:DateTime64(3, 'UTC')}, from = {from:DateTime64(3, 'UTC')}, to = {to:DateTime64(3, 'UTC')},
    project = {project:String}) AS usage
INNER JOIN
(
    SELECT
        project, source, id, max(model) AS model, max(endpoint) AS endpoint, max(team) AS team, max(key) AS key,
        max(status) AS status, max(latency_ms) AS latency_ms
    FROM ${database}.discrete_facts
    WHERE ({project:String} = '' OR project = {project:String})
        AND (project, source, id) IN (
            SELECT project, source, id FROM ${database}.discrete_facts
            WHERE hour >= {from:DateTime64(3, 'UTC')} AND hour < {to:DateTime64(3, 'UTC')}
                AND ({project:String} = '' OR project = {project:String}))
    GROUP BY project, source, id
) AS ascribed
USING (project, source, id);
