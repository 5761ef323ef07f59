// Prints how Go writes upstream's internal types: crates/api/src/kinds/checks/internal.txt.
//
// Run it in a module that requires k8s.io/kubernetes v1.36.0 (with its replacements, as upstream's own go.mod has them):
// go run internal_types.go > internal.txt
//
// A line without indentation is a type, one with a space a field of it: Go's name, the JSON name (`^`: of the struct around
// it), and what it is: `s` a text, `0` a number, `f` a bool, `q` a quantity, `-` what may be null, `=T` a struct, `*T` a
// pointer to one, `[T` a list of them, `{T` a map; `@` stands for the object's metadata.
package main

import (
	"fmt"
	"os"
	"reflect"
	"sort"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	v1 "k8s.io/api/core/v1"
	fcv1 "k8s.io/api/flowcontrol/v1"
	netv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resv1 "k8s.io/api/resource/v1"
	"k8s.io/kubernetes/pkg/apis/apps"
	"k8s.io/kubernetes/pkg/apis/batch"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/flowcontrol"
	"k8s.io/kubernetes/pkg/apis/networking"
	"k8s.io/kubernetes/pkg/apis/rbac"
	"k8s.io/kubernetes/pkg/apis/resource"
)

var done = map[string]bool{}
var out = map[string][]string{}

func name(t reflect.Type) string {
	p := strings.Split(t.PkgPath(), "/")
	return p[len(p)-1] + "." + t.Name()
}
func internal(t reflect.Type) bool {
	return strings.HasPrefix(t.PkgPath(), "k8s.io/kubernetes/pkg/apis/")
}

func deref(t reflect.Type) reflect.Type {
	for t != nil && (t.Kind() == reflect.Ptr || t.Kind() == reflect.Slice || t.Kind() == reflect.Map) {
		t = t.Elem()
	}
	return t
}

// jsonName of the v1 field with this Go name, looking into inlined structs
func v1field(t reflect.Type, goName string) (reflect.StructField, bool) {
	if t == nil || t.Kind() != reflect.Struct {
		return reflect.StructField{}, false
	}
	return t.FieldByName(goName)
}
func tag(f reflect.StructField) string { return strings.Split(f.Tag.Get("json"), ",")[0] }

func code(f reflect.Type, v reflect.Type) string {
	switch f.Kind() {
	case reflect.Ptr:
		e := f.Elem()
		if e.Kind() == reflect.Struct && (internal(e) || name(e) == "v1.LabelSelector") {
			walk(e, deref(v))
			return "*" + name(e)
		}
		return "-"
	case reflect.Slice:
		e := f.Elem()
		if e.Kind() == reflect.Struct && internal(e) {
			walk(e, deref(v))
			return "[" + name(e)
		}
		return "-"
	case reflect.Map:
		e := f.Elem()
		if e.Kind() == reflect.Struct && internal(e) {
			walk(e, deref(v))
			return "{" + name(e)
		}
		return "-"
	case reflect.Struct:
		if internal(f) {
			walk(f, deref(v))
			return "=" + name(f)
		}
		switch name(f) {
		case "resource.Quantity":
			return "q"
		case "intstr.IntOrString":
			return "0"
		case "v1.ObjectMeta":
			return "=v1.ObjectMeta"
		case "v1.LabelSelector":
			return "=v1.LabelSelector"
		}
		return "-"
	case reflect.String:
		return "s"
	case reflect.Bool:
		return "f"
	case reflect.Interface:
		return "-"
	}
	return "0"
}

func fields(t, v reflect.Type, up string) []string {
	var all []string
	for i := 0; i < t.NumField(); i++ {
		f := t.Field(i)
		if f.Anonymous && f.Tag.Get("json") == "" {
			if name(f.Type) == "v1.ObjectMeta" {
				all = append(all, "@ metadata @")
				continue
			}
			if name(f.Type) == "v1.TypeMeta" {
				continue
			}
			all = append(all, fields(f.Type, v, up)...)
			continue
		}
		vf, ok := v1field(v, f.Name)
		j := ""
		var vt reflect.Type
		if ok {
			j = tag(vf)
			vt = vf.Type
		}
		if j == "" {
			if name(t) == "core.PodSecurityContext" {
				pf, ok := reflect.TypeOf(v1.PodSpec{}).FieldByName(f.Name)
				if ok {
					j = "^" + tag(pf)
					vt = pf.Type
				}
			}
		}
		if j == "" {
			fmt.Fprintf(os.Stderr, "no v1 name: %s.%s (%v)\n", name(t), f.Name, v)
			j = strings.ToLower(f.Name[:1]) + f.Name[1:]
		}
		all = append(all, f.Name+" "+j+" "+code(f.Type, vt))
	}
	return all
}

func walk(t, v reflect.Type) {
	n := name(t)
	if done[n] {
		return
	}
	done[n] = true
	if n == "v1.LabelSelector" {
		return
	}
	out[n] = fields(t, v, "")
}

func main() {
	for _, p := range [][2]any{
		{core.PodTemplateSpec{}, v1.PodTemplateSpec{}}, {core.PodSpec{}, v1.PodSpec{}},
		{core.PersistentVolumeSource{}, v1.PersistentVolumeSource{}}, {core.PersistentVolumeClaimSpec{}, v1.PersistentVolumeClaimSpec{}},
		{apps.DeploymentStrategy{}, appsv1.DeploymentStrategy{}}, {apps.StatefulSetUpdateStrategy{}, appsv1.StatefulSetUpdateStrategy{}}, {apps.DaemonSetUpdateStrategy{}, appsv1.DaemonSetUpdateStrategy{}},
		{batch.JobSpec{}, batchv1.JobSpec{}},
		{networking.IPAddressSpec{}, netv1.IPAddressSpec{}},
		{rbac.RoleRef{}, rbacv1.RoleRef{}},
		{resource.ResourceClaimSpec{}, resv1.ResourceClaimSpec{}}, {resource.ResourceClaimTemplateSpec{}, resv1.ResourceClaimTemplateSpec{}}, {resource.AllocationResult{}, resv1.AllocationResult{}},
		{flowcontrol.FlowDistinguisherMethod{}, fcv1.FlowDistinguisherMethod{}},
	} {
		walk(reflect.TypeOf(p[0]), reflect.TypeOf(p[1]))
	}
	var names []string
	for n := range out {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		fmt.Println(n)
		for _, f := range out[n] {
			fmt.Println(" " + f)
		}
	}
}
