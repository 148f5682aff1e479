"""From a manifest's canonical form to the records of an application: pure, and no Docker, store or file in sight."""
