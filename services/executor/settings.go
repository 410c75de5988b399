package executor

import (
	"fmt"

	"github.com/almanac-scheduler/almanac/pkg/template"
	"github.com/almanac-scheduler/almanac/pkg/template/runner"
)

// maxSettingFile bounds a file that a setting stands for, in bytes; the settings
// of a template as a whole are bounded like parameters.
const maxSettingFile = 128 << 10

// templateSettings returns the configured settings by template, with the files
// read that they name.
func (c *Config) templateSettings() (map[string]map[string]any, error) {
	read := make(map[string]map[string]any, len(c.Templates))
	for name, settings := range c.Templates {
		value, err := withFiles("templates."+name, settings)
		if err != nil {
			return nil, err
		}
		inner, ok := value.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("templates.%s: must be an object; a file can stand for a text within it", name)
		}
		read[name] = inner
	}
	return read, nil
}

// withFiles returns the value with the content of the file in place of every
// {file: path}.
func withFiles(field string, value any) (any, error) {
	switch value := value.(type) {
	case map[string]any:
		if path, ok := value["file"].(string); ok && len(value) == 1 {
			content, err := readSmall(path, maxSettingFile)
			if err != nil {
				return nil, fmt.Errorf("%s.file: %w", field, err)
			}
			return content, nil
		}
		read := make(map[string]any, len(value))
		for key, inner := range value {
			var err error
			if read[key], err = withFiles(field+"."+key, inner); err != nil {
				return nil, err
			}
		}
		return read, nil
	case []any:
		read := make([]any, len(value))
		for i, inner := range value {
			var err error
			if read[i], err = withFiles(fmt.Sprintf("%s.%d", field, i), inner); err != nil {
				return nil, err
			}
		}
		return read, nil
	}
	return value, nil
}

// checkSettings names the first setting that cannot work.
func checkSettings(settings map[string]map[string]any, described []runner.Description) error {
	known := map[string][]template.FieldError{}
	for _, d := range described {
		known[d.Descriptor.Type] = d.BadSettings
	}
	for name := range settings {
		if _, ok := known[name]; !ok {
			return fmt.Errorf("templates.%s: the runner has no such template", name)
		}
	}
	for _, d := range described {
		if len(d.BadSettings) > 0 {
			bad := &template.ParamsError{}
			for _, f := range d.BadSettings {
				field := "templates." + d.Descriptor.Type
				if f.Field != "" {
					field += "." + f.Field
				}
				bad.Fields = append(bad.Fields, template.FieldError{Field: field, Message: f.Message})
			}
			return bad
		}
	}
	return nil
}
