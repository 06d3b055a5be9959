package manifest

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"fermata/internal/suggest"
)

// unknownFields walks the document beside the types and names every field that the types do not have. Empty values are passed
// over: `kubectl run --dry-run=client -o yaml` writes "status: {}" and "creationTimestamp: null".
func unknownFields(document any) []error {
	var problems []error
	walk("", document, reflect.TypeFor[Pod](), &problems)
	return problems
}

func walk(path string, value any, t reflect.Type, problems *[]error) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch v := value.(type) {
	case map[string]any:
		if t.Kind() == reflect.Struct && t != reflect.TypeFor[Quantity]() {
			walkObject(path, v, t, problems)
		}
	case []any:
		if t.Kind() == reflect.Slice {
			for i, element := range v {
				walk(fmt.Sprintf("%s[%d]", path, i), element, t.Elem(), problems)
			}
		}
	}
}

func walkObject(path string, object map[string]any, t reflect.Type, problems *[]error) {
	fields := map[string]reflect.Type{}
	var names []string
	for i := range t.NumField() {
		name := t.Field(i).Tag.Get("json")
		fields[name] = t.Field(i).Type
		names = append(names, name)
	}
	keys := make([]string, 0, len(object))
	for key := range object {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		at := strings.TrimPrefix(path+"."+key, ".")
		switch field, ok := fields[key]; {
		case ok:
			walk(at, object[key], field, problems)
		case !empty(object[key]):
			*problems = append(*problems, fmt.Errorf("%s: not a field that fermata carries out%s", at, suggest.DidYouMean(key, names)))
		}
	}
}

func empty(value any) bool {
	switch v := value.(type) {
	case nil:
		return true
	case map[string]any:
		return len(v) == 0
	case []any:
		return len(v) == 0
	}
	return false
}
