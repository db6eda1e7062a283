-- The trace that a task or a distribution belongs to, of those that belong to one that is recorded.
CREATE TABLE traces (id TEXT PRIMARY KEY, trace TEXT NOT NULL) WITHOUT ROWID;
CREATE TRIGGER trace_goes_with_its_task AFTER DELETE ON tasks
BEGIN DELETE FROM traces WHERE id = old.task_id; END;
CREATE TRIGGER trace_goes_with_its_distribution AFTER DELETE ON distributions
BEGIN DELETE FROM traces WHERE id = old.distribution_id; END;
