// A stub for tests: as much of ros2_control as examples/ros2 uses.
#ifndef AGENTKD_STUB_CONTROLLER_INTERFACE
#define AGENTKD_STUB_CONTROLLER_INTERFACE

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "rclcpp/rclcpp.hpp"

namespace rclcpp_lifecycle
{

struct State {};

struct Parameter
{
  std::vector<std::string> names;
  std::vector<std::string> as_string_array() const {return names;}
};

struct LifecycleNode
{
  std::map<std::string, std::vector<std::string>> parameters;
  Parameter get_parameter(const std::string & name) const {return {parameters.at(name)};}
  rclcpp::Logger get_logger() const {return {};}
};

}  // namespace rclcpp_lifecycle

namespace controller_interface
{

enum class CallbackReturn { SUCCESS, FAILURE, ERROR };
enum class return_type { OK, ERROR };
enum class interface_configuration_type { ALL, INDIVIDUAL, NONE };

struct InterfaceConfiguration
{
  interface_configuration_type type;
  std::vector<std::string> names;
};

struct Loaned
{
  double value = 0.0;
  double get_value() const {return value;}
  void set_value(double given) {value = given;}
};

class ControllerInterface
{
public:
  virtual ~ControllerInterface() = default;
  virtual CallbackReturn on_init() = 0;
  virtual InterfaceConfiguration command_interface_configuration() const = 0;
  virtual InterfaceConfiguration state_interface_configuration() const = 0;
  virtual CallbackReturn on_configure(const rclcpp_lifecycle::State &) = 0;
  virtual CallbackReturn on_activate(const rclcpp_lifecycle::State &) = 0;
  virtual return_type update(const rclcpp::Time &, const rclcpp::Duration &) = 0;

  template<typename Value>
  void auto_declare(const std::string & name, const Value & value)
  {
    node_->parameters.emplace(name, value);
  }

  std::shared_ptr<rclcpp_lifecycle::LifecycleNode> get_node() {return node_;}

  std::vector<Loaned> state_interfaces_, command_interfaces_;

private:
  std::shared_ptr<rclcpp_lifecycle::LifecycleNode> node_ =
    std::make_shared<rclcpp_lifecycle::LifecycleNode>();
};

}  // namespace controller_interface

#endif
