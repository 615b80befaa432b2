-- For each view, which runs with the rights and the policies of whoever asks; and for the few tables without projects
-- that views need: pipeline/access.py names them.
GRANT ${on_cluster} SELECT ON ${database}.${name} TO roommeter_tenant;
