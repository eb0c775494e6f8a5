"""The emoji world: real pictures with names, of people who differ in tone, gender and hair, in three styles."""
