package access

import (
	"slices"
	"strings"

	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// Role is what a user may do, in the word used on the wire.
type Role string

// The roles, each with the rights of those after it.
const (
	SuperAdmin Role = "super_admin" // creates, changes, deletes and runs any job
	Admin      Role = "admin"       // sees everything and runs what destroys nothing
	User       Role = "user"        // no access to the management of jobs
)

// Roles lists all roles, the most powerful first.
var Roles = []Role{SuperAdmin, Admin, User}

// Identity is who makes a request.
type Identity struct {
	User     string
	Role     Role
	Token    store.Token // that the request came with; an executor's is not one
	Executor bool        // an executor: no user, and of use for leasing only
}

// need is the least that a method asks for.
type need int

const (
	denied need = iota // the zero value: a method without a rule
	public
	anyUser
	admin
	superAdmin
	executor
)

// rules says of every gRPC method, and so of every REST route, who may call it.
// A method that is missing is denied.
var rules = map[string]need{
	"/almanac.v1.JobService/ListJobs":        admin,
	"/almanac.v1.JobService/CreateJob":       superAdmin,
	"/almanac.v1.JobService/GetJob":          admin,
	"/almanac.v1.JobService/UpdateJob":       superAdmin,
	"/almanac.v1.JobService/DeleteJob":       superAdmin,
	"/almanac.v1.JobService/RunJob":          admin, // and MayRun
	"/almanac.v1.JobService/TryJob":          superAdmin,
	"/almanac.v1.JobService/PreviewSchedule": admin,

	"/almanac.v1.TemplateService/ListTemplates": admin,
	"/almanac.v1.TemplateService/GetTemplate":   admin,

	"/almanac.v1.ExecutionService/ListExecutions":   admin,
	"/almanac.v1.ExecutionService/GetExecution":     admin,
	"/almanac.v1.ExecutionService/ListActivity":     admin,
	"/almanac.v1.ExecutionService/WatchExecution":   admin,
	"/almanac.v1.ExecutionService/ListLogs":         admin,
	"/almanac.v1.ExecutionService/CancelExecution":  admin, // and MayCancel
	"/almanac.v1.ExecutionService/ResolveExecution": superAdmin,

	"/almanac.v1.WorkerService/ListWorkers":    admin,
	"/almanac.v1.WorkerService/DrainWorker":    superAdmin,
	"/almanac.v1.WorkerService/ResumeWorker":   superAdmin,
	"/almanac.v1.WorkerService/ListRegistries": admin,

	"/almanac.v1.StatisticsService/GetOverview":   admin,
	"/almanac.v1.StatisticsService/GetStatistics": admin,
	"/almanac.v1.StatisticsService/ListUpcoming":  admin,

	"/almanac.v1.AuthService/LogIn":          public,
	"/almanac.v1.AuthService/StartSession":   public,
	"/almanac.v1.AuthService/GetSession":     anyUser,
	"/almanac.v1.AuthService/EndSession":     anyUser,
	"/almanac.v1.AuthService/ChangePassword": anyUser,
	"/almanac.v1.AuthService/ListTokens":     anyUser,
	"/almanac.v1.AuthService/CreateToken":    anyUser,
	"/almanac.v1.AuthService/RevokeToken":    anyUser,

	"/almanac.v1.UserService/ListUsers":  superAdmin,
	"/almanac.v1.UserService/AddUser":    superAdmin,
	"/almanac.v1.UserService/UpdateUser": superAdmin,
	"/almanac.v1.UserService/RemoveUser": superAdmin,

	"/almanac.v1.AuditService/ListAudit": superAdmin,
	"/almanac.v1.LeaseService/Lease":     executor,

	"/grpc.health.v1.Health/Check": public,
	"/grpc.health.v1.Health/Watch": public,
	"/grpc.health.v1.Health/List":  public,

	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      anyUser,
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": anyUser,
}

// Public tells whether the method (its full gRPC name) needs no token.
func Public(method string) bool { return rules[method] == public }

// Authorize returns nil when the identity may call the method (its full gRPC
// name), else a *DeniedError.
func Authorize(id Identity, method string) error {
	var least Role
	switch rules[method] {
	case public:
		return nil
	case executor:
		if !id.Executor {
			return deny("this is for executors, which have a token of their own")
		}
		return nil
	case anyUser:
		least = User
	case admin:
		least = Admin
	case superAdmin:
		least = SuperAdmin
	default: // denied: nobody said who may
		return deny("nobody may call this")
	}
	if id.Executor {
		return deny("an executor's token is good for leasing only")
	}
	rank := slices.Index(Roles, id.Role)
	if rank < 0 || rank > slices.Index(Roles, least) {
		return deny("this needs the role " + string(least) + "; yours is " + string(id.Role))
	}
	return nil
}

// Run is a manual run that somebody asks for.
type Run struct {
	DestructiveTemplate bool     // the template can destroy data
	Destructive         bool     // this run may: its effective dryRun is not true
	Overrides           []string // names of the parameters given for this run alone
	DryRunParam         string   // name of the parameter that makes a run harmless
}

// MayRun returns nil when the identity may start the run, else a *DeniedError.
// Admins run what destroys nothing, and of a template that can destroy they
// override nothing but dryRun.
func (id Identity) MayRun(r Run) error {
	if id.Role == SuperAdmin {
		return nil
	}
	if r.Destructive {
		return deny("this run may destroy data, which needs the role " + string(SuperAdmin) +
			"; with the override {\"" + r.DryRunParam + "\": true} you may try it")
	}
	others := slices.DeleteFunc(slices.Clone(r.Overrides), func(name string) bool { return name == r.DryRunParam })
	if r.DestructiveTemplate && len(others) > 0 {
		slices.Sort(others)
		return deny("overriding " + strings.Join(others, ", ") + " of a template that can destroy data needs the role " + string(SuperAdmin))
	}
	return nil
}

// MayCancel returns nil when the identity may cancel a run that startedBy
// started (empty for the scheduler), else a *DeniedError.
func (id Identity) MayCancel(startedBy string) error {
	if id.Role == SuperAdmin || startedBy != "" && startedBy == id.User {
		return nil
	}
	return deny("you may cancel only what you started yourself; the rest needs the role " + string(SuperAdmin))
}

// DeniedError says why somebody who is known may not do something.
type DeniedError struct{ Reason string }

// Error returns the reason.
func (e *DeniedError) Error() string { return e.Reason }

func deny(reason string) error { return &DeniedError{Reason: reason} }
