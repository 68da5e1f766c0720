"""Starting ranks again where a launch failed, and stopping them gently, above any launcher."""
