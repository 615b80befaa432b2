-- For each table with a column `project`. The policies come before the grant, so that there is no moment without them.
-- A permissive policy for everybody, because a server may be configured to show nothing where only others have one; and
-- a restrictive one, which no permissive policy of anybody's can widen.
CREATE ROW POLICY OR REPLACE roommeter_everyone ${on_cluster} ON ${database}.${name} AS PERMISSIVE FOR SELECT USING 1 TO ALL;
CREATE ROW POLICY OR REPLACE roommeter_tenant ${on_cluster} ON ${database}.${name} AS RESTRICTIVE FOR SELECT USING project = currentUser() TO roommeter_tenant;
GRANT ${on_cluster} SELECT ON ${database}.${name} TO roommeter_tenant;
