package system

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/almanac-scheduler/almanac/deploy/local/internal/system"
	"github.com/almanac-scheduler/almanac/pkg/rpc"
	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
)

// A client in Go creates a job, runs it and waits for its end. The address and
// the token are those in .data/local.json.
func Example() {
	address, token, stop := startForExample()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	options, err := rpc.DialOptions(rpc.TLS{Plaintext: true}, rpc.Token(token))
	if err != nil {
		log.Fatal(err)
	}
	connection, err := grpc.NewClient(address, options...)
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	jobs := almanacv1.NewJobServiceClient(connection)
	executions := almanacv1.NewExecutionServiceClient(connection)

	parameters, err := structpb.NewStruct(map[string]any{"message": "Hello from Go"})
	if err != nil {
		log.Fatal(err)
	}
	daily := "0 2 * * *"
	created, err := jobs.CreateJob(ctx, &almanacv1.CreateJobRequest{Job: &almanacv1.Job{
		Name:         "hello",
		TemplateType: "test_scheduler",
		Parameters:   parameters,
		Schedule:     &almanacv1.Schedule{Cron: &daily},
	}})
	if err != nil {
		log.Fatal(err)
	}
	started, err := jobs.RunJob(ctx, &almanacv1.RunJobRequest{Id: created.GetJob().GetId()})
	if err != nil {
		log.Fatal(err)
	}
	for {
		answer, err := executions.GetExecution(ctx, &almanacv1.GetExecutionRequest{ExecutionId: started.GetExecutionId()})
		if err != nil {
			log.Fatal(err)
		}
		if execution := answer.GetExecution(); execution.GetCompletedAt() != nil {
			fmt.Println(execution.GetStatus(), execution.GetResult().AsMap()["message"])
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	// Output: success Hello from Go
}

// startForExample starts a small system; stop ends it.
func startForExample() (grpcAddress, token string, stop func()) {
	bin, err := binaries()
	if err != nil {
		log.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "almanac-example-")
	if err != nil {
		log.Fatal(err)
	}
	s, err := system.Start(context.Background(), system.Config{Bin: bin, Dir: dir, Executors: 1})
	if err != nil {
		log.Fatal(err)
	}
	return s.GRPC, s.Users.SuperAdmin.Token, func() {
		if err := s.Stop(); err != nil {
			log.Print(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			log.Print(err)
		}
	}
}
