package template

import (
	"maps"
	"slices"
)

// DryRunParam is the parameter that every destructive template has.
const DryRunParam = "dryRun"

// EffectiveDryRun reports whether dryRun is present and true.
func EffectiveDryRun(params map[string]any) bool {
	dry, _ := params[DryRunParam].(bool)
	return dry
}

// IsDestructiveRun reports whether a run with these effective parameters may
// destroy data: the template is destructive and dryRun is not true.
func IsDestructiveRun(d Descriptor, params map[string]any) bool {
	return d.Destructive && !EffectiveDryRun(params)
}

// MergeRestricted returns a copy of the schema in which the named top-level
// properties have the allowed values as their enum, sorted and without
// duplicates. Names that the schema does not know are left out. The argument is
// not changed.
func MergeRestricted(schema map[string]any, allowed map[string][]string) map[string]any {
	merged := maps.Clone(schema)
	known, _ := schema["properties"].(map[string]any)
	if known == nil {
		return merged
	}
	properties := maps.Clone(known)
	for name, values := range allowed {
		property, ok := properties[name].(map[string]any)
		if !ok {
			continue
		}
		sorted := slices.Compact(slices.Sorted(slices.Values(values)))
		enum := make([]any, len(sorted))
		for i, v := range sorted {
			enum[i] = v
		}
		property = maps.Clone(property)
		property["enum"] = enum
		properties[name] = property
	}
	merged["properties"] = properties
	return merged
}
